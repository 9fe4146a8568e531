/*
 * What a program sees of the library that `pydlm exec-o2dlm` preloads. It needs no
 * libo2dlm. Without arguments: the parameter's file, by each function that opens
 * files. With paths: their file systems' magic numbers, by each function for that.
 */
#undef _FORTIFY_SOURCE
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PARAMETER "/sys/module/ocfs2_dlmfs/parameters/capabilities"
#define SAID "bast stackglue"

#define CHECK(condition)							\
	do {								\
		if (!(condition)) {					\
			fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
			exit(1);						\
		}							\
	} while (0)

/* What programs built with _FORTIFY_SOURCE call. */
int __open_2(const char *, int);
int __open64_2(const char *, int);
int __openat_2(int, const char *, int);
int __openat64_2(int, const char *, int);

#define WAYS 8

static int by(int way, const char *path, int flags)
{
	switch (way) {
	case 0: return open(path, flags);
	case 1: return open64(path, flags);
	case 2: return openat(AT_FDCWD, path, flags);
	case 3: return openat64(AT_FDCWD, path, flags);
	case 4: return __open_2(path, flags);
	case 5: return __open64_2(path, flags);
	case 6: return __openat_2(AT_FDCWD, path, flags);
	default: return __openat64_2(AT_FDCWD, path, flags);
	}
}

static void *all_ways(void *unused)
{
	char text[64];

	for (int way = 0; way < WAYS; way++) {
		int fd;

		errno = 77;
		fd = by(way, PARAMETER, O_RDONLY | O_CLOEXEC);
		CHECK(fd >= 0 && errno == 77);
		CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
		CHECK(read(fd, text, sizeof(text)) == sizeof(SAID) - 1);
		CHECK(!memcmp(text, SAID, sizeof(SAID) - 1));
		CHECK(write(fd, "x", 1) == -1);
		CHECK(!close(fd));
		fd = by(way, PARAMETER, O_RDONLY);
		CHECK(fd >= 0 && fcntl(fd, F_GETFD) == 0 && !close(fd));

		/* It is only read, and nothing else of the kind is made up. */
		CHECK(by(way, PARAMETER, O_RDWR) == -1 && errno == ENOENT);
		CHECK(by(way, PARAMETER, O_WRONLY) == -1 && errno == ENOENT);
		CHECK(by(way, PARAMETER "x", O_RDONLY) == -1 && errno == ENOENT);
		CHECK(by(way, "/sys/module/ocfs2_dlmfs", O_RDONLY) == -1 && errno == ENOENT);
		CHECK(by(way, NULL, O_RDONLY) == -1 && errno == EFAULT);
		CHECK((fd = by(way, "/dev/null", O_RDWR)) >= 0 && write(fd, "x", 1) == 1);
		CHECK(!close(fd));
	}
	for (int way = 0; way < 2; way++) {
		FILE *(*make)(const char *, const char *) = way ? fopen64 : fopen;
		FILE *file;

		errno = 77;
		file = make(PARAMETER, "re");
		CHECK(file && errno == 77);
		CHECK(fcntl(fileno(file), F_GETFD) == FD_CLOEXEC);
		CHECK(fgets(text, sizeof(text), file) && !strcmp(text, SAID));
		CHECK(!fgets(text, sizeof(text), file) && !fclose(file));
		CHECK(!make(PARAMETER, "r+"));
		CHECK(!make(PARAMETER "x", "r") && errno == ENOENT);
		CHECK((file = make("/dev/null", "w")) && fputs("x", file) > 0 && !fclose(file));
	}
	return unused;
}

/* The mode after the flags has to come through. */
static void modes(void)
{
	char name[] = "/tmp/pydlm-probe-XXXXXX", path[64];
	struct stat st;
	int fd;

	CHECK(mkdtemp(name));
	snprintf(path, sizeof(path), "%s/f", name);
	umask(0);
	for (int way = 0; way < 4; way++) {
		int flags = O_CREAT | O_EXCL | O_WRONLY;

		fd = way == 0 ? open(path, flags, 0641) :
		     way == 1 ? open64(path, flags, 0641) :
		     way == 2 ? openat(AT_FDCWD, path, flags, 0641) :
				openat64(AT_FDCWD, path, flags, 0641);
		CHECK(fd >= 0 && !fstat(fd, &st) && (st.st_mode & 07777) == 0641);
		CHECK(!close(fd) && !unlink(path));
	}
	fd = open(name, O_TMPFILE | O_RDWR, 0642);
	CHECK(fd >= 0 ? !fstat(fd, &st) && (st.st_mode & 07777) == 0642 : errno == EOPNOTSUPP);
	CHECK((fd < 0 || !close(fd)) && !rmdir(name));
}

static void exhausted(void)
{
	struct rlimit none = { 3, 3 };

	CHECK(!setrlimit(RLIMIT_NOFILE, &none));
	CHECK(open(PARAMETER, O_RDONLY) == -1 && errno == EMFILE);
	CHECK(!fopen(PARAMETER, "r") && errno == EMFILE);
}

static void magic(const char *path)
{
	struct statfs one[2];
	struct statfs64 other[2];
	int fd = open(path, O_RDONLY | O_DIRECTORY);

	CHECK(fd >= 0);
	errno = 77;
	CHECK(!statfs(path, &one[0]) && !fstatfs(fd, &one[1]));
	CHECK(!statfs64(path, &other[0]) && !fstatfs64(fd, &other[1]));
	CHECK(errno == 77);
	CHECK(one[0].f_type == one[1].f_type && other[0].f_type == other[1].f_type);
	CHECK(one[0].f_type == other[0].f_type && one[0].f_bsize == other[0].f_bsize);
	CHECK(!close(fd));
	CHECK(fstatfs(fd, &one[0]) == -1 && errno == EBADF);
	CHECK(statfs("/none", &one[0]) == -1 && errno == ENOENT);
	printf("%lx\n", (unsigned long)one[0].f_type);
}

int main(int argc, char **argv)
{
	pthread_t threads[8];

	for (int i = 1; i < argc; i++)
		magic(argv[i]);
	if (argc > 1)
		return 0;
	modes();
	for (int round = 0; round < 100; round++) {
		for (int i = 0; i < 8; i++)
			CHECK(!pthread_create(&threads[i], NULL, all_ways, NULL));
		for (int i = 0; i < 8; i++)
			CHECK(!pthread_join(threads[i], NULL));
	}
	exhausted();
	return 0;
}
