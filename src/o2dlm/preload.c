/*
 * Lets programs linked with libo2dlm run on a pydlm mount. Two things of the
 * kernel's ocfs2_dlmfs that libo2dlm looks for are not in FUSE's power:
 *
 *   - its magic number: fstatfs() of any FUSE file system reports FUSE's own.
 *     Here it reports dlmfs's for files on a pydlm mount, and only there.
 *   - the parameter of its module that says what it can do. Where the module is
 *     not loaded, opening that file for reading gives one that says so.
 *
 * All else goes through unchanged. What is here keeps no state but the addresses
 * of libc's functions, takes no lock, allocates nothing, and changes errno only
 * where a call fails: so it is as safe in threads and signal handlers as what it
 * stands before.
 */

/* The fortified headers would redirect the functions that are defined here,
   and large-file macros would rename them. */
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define DLMFS_MAGIC 0x76a9f425	/* USER_DLMFS_MAGIC of libo2dlm/o2dlm.c */
#define FUSE_MAGIC 0x65735546	/* FUSE_SUPER_MAGIC of linux/magic.h */

#define PARAMETER "/sys/module/ocfs2_dlmfs/parameters/capabilities"
#define CAPABILITIES "bast stackglue"	/* as ocfs2_dlmfs has it: no newline */

/* pydlm.stacks.dlmfs.place.PYDLM_MOUNT */
#define MOUNT_TYPE "fuse.dlmfs"

#define EXPORT __attribute__((visibility("default")))

/*
 * The function that this library hides, from whatever library comes next. All
 * are looked up when the library is loaded, as dlsym() may not be called in
 * signal handlers; other libraries' constructors may come earlier.
 */
#define NEXT(type, name, ...)						\
	static type (*_Atomic next_##name)(__VA_ARGS__);		\
	static type (*find_##name(void))(__VA_ARGS__)			\
	{								\
		type (*found)(__VA_ARGS__) =				\
			atomic_load_explicit(&next_##name,		\
					     memory_order_relaxed);	\
		if (!found) {						\
			*(void **)&found = dlsym(RTLD_NEXT, #name);	\
			atomic_store_explicit(&next_##name, found,	\
					      memory_order_relaxed);	\
		}							\
		return found;						\
	}

NEXT(int, open, const char *, int, ...)
NEXT(int, open64, const char *, int, ...)
NEXT(int, openat, int, const char *, int, ...)
NEXT(int, openat64, int, const char *, int, ...)
NEXT(int, __open_2, const char *, int)
NEXT(int, __open64_2, const char *, int)
NEXT(int, __openat_2, int, const char *, int)
NEXT(int, __openat64_2, int, const char *, int)
NEXT(FILE *, fopen, const char *, const char *)
NEXT(FILE *, fopen64, const char *, const char *)
NEXT(int, statfs, const char *, struct statfs *)
NEXT(int, statfs64, const char *, struct statfs64 *)
NEXT(int, fstatfs, int, struct statfs *)
NEXT(int, fstatfs64, int, struct statfs64 *)

__attribute__((constructor)) static void find_all(void)
{
	find_open();
	find_open64();
	find_openat();
	find_openat64();
	find___open_2();
	find___open64_2();
	find___openat_2();
	find___openat64_2();
	find_fopen();
	find_fopen64();
	find_statfs();
	find_statfs64();
	find_fstatfs();
	find_fstatfs64();
}

/* Where libc has no such function, nothing in the process should want it. */
#define CALL(failed, name, ...)						\
	(find_##name() ? find_##name()(__VA_ARGS__) : (errno = ENOSYS, failed))


/* The magic number. */

/*
 * Whether a line of /proc/self/mountinfo, read byte by byte, tells of a device
 * and has our type. See proc(5):
 *
 *   36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw
 *
 * Blanks within fields are escaped, so fields are what blanks separate.
 */
struct line {
	unsigned field;		/* counted from 1 */
	unsigned since;		/* fields since "-", which is 1; 0: not yet */
	unsigned at;		/* bytes of this field so far */
	bool same;		/* it is so far what it is compared with */
	bool device, type;	/* found */
};

static void line_begin(struct line *line)
{
	*line = (struct line){ .field = 1, .same = true };
}

/* Take one byte; true at the end of the line that was looked for. */
static bool line_take(struct line *line, char byte, const char *device)
{
	const char *wanted = line->field == 3 ? device :
			     line->since == 1 ? MOUNT_TYPE : "-";
	bool ends = byte == ' ' || byte == '\n';
	bool found;

	if (!ends) {
		/* What is longer than `wanted` differs at its NUL. */
		line->same = line->same && wanted[line->at] == byte;
		line->at += line->same;
		return false;
	}
	found = line->same && !wanted[line->at];
	if (line->field == 3)
		line->device = found;
	else if (line->since == 1)
		line->type = found;
	if (line->since || (line->field > 6 && found))
		line->since++;
	line->field++;
	line->at = 0;
	line->same = true;
	if (byte != '\n')
		return false;
	found = line->device && line->type;
	line_begin(line);
	return found;
}

/* Write major:minor. Not by snprintf, which signal handlers must not call. */
static void write_device(char *text, unsigned major, unsigned minor)
{
	unsigned numbers[] = { major, minor };
	char digits[10];

	for (int i = 0; i < 2; i++) {
		int n = 0;

		do
			digits[n++] = '0' + numbers[i] % 10;
		while (numbers[i] /= 10);
		while (n)
			*text++ = digits[--n];
		*text++ = i ? '\0' : ':';
	}
}

/*
 * Whether a file is on a pydlm mount. The table of mounts is read each time:
 * only for files on FUSE, and a device's number may have become another
 * mount's since.
 */
static bool on_pydlm_mount(int fd, const char *path)
{
	struct statx st;
	struct line line;
	char device[24], buffer[1024];
	ssize_t got;
	bool found = false;

	/* Of the file itself nothing is asked, so the mount need not answer. */
	if (statx(fd, path, AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &st))
		return false;
	write_device(device, st.stx_dev_major, st.stx_dev_minor);
	fd = CALL(-1, open, "/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	line_begin(&line);
	while (!found) {
		got = read(fd, buffer, sizeof(buffer));
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		for (ssize_t i = 0; i < got && !found; i++)
			found = line_take(&line, buffer[i], device);
	}
	close(fd);
	return found;
}

/* What a statfs() should have reported that has reported `magic`. */
static unsigned long right_magic(unsigned long magic, int fd, const char *path)
{
	int saved = errno;

	if (magic == FUSE_MAGIC && on_pydlm_mount(fd, path))
		magic = DLMFS_MAGIC;
	errno = saved;
	return magic;
}

EXPORT int statfs(const char *path, struct statfs *buf)
{
	int rc = CALL(-1, statfs, path, buf);

	if (!rc)
		buf->f_type = right_magic(buf->f_type, AT_FDCWD, path);
	return rc;
}

EXPORT int statfs64(const char *path, struct statfs64 *buf)
{
	int rc = CALL(-1, statfs64, path, buf);

	if (!rc)
		buf->f_type = right_magic(buf->f_type, AT_FDCWD, path);
	return rc;
}

EXPORT int fstatfs(int fd, struct statfs *buf)
{
	int rc = CALL(-1, fstatfs, fd, buf);

	if (!rc)
		buf->f_type = right_magic(buf->f_type, fd, "");
	return rc;
}

EXPORT int fstatfs64(int fd, struct statfs64 *buf)
{
	int rc = CALL(-1, fstatfs64, fd, buf);

	if (!rc)
		buf->f_type = right_magic(buf->f_type, fd, "");
	return rc;
}


/* The parameter. */

/* Whether opening `path` has just failed because the module is not loaded. */
static bool lacks_module(const char *path)
{
	return errno == ENOENT && path && !strcmp(path, PARAMETER);
}

/* Open a file that says what a pydlm mount can do; like sysfs's it is only read. */
static int open_parameter(int flags)
{
	const int seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
	const ssize_t size = sizeof(CAPABILITIES) - 1;
	int fd = memfd_create("capabilities", MFD_ALLOW_SEALING |
			      (flags & O_CLOEXEC ? MFD_CLOEXEC : 0));

	if (fd < 0)
		return -1;	/* EMFILE and the like: so it would have been */
	if (write(fd, CAPABILITIES, size) != size || lseek(fd, 0, SEEK_SET) ||
	    fcntl(fd, F_ADD_SEALS, seals)) {
		close(fd);
		errno = ENOENT;
		return -1;
	}
	return fd;
}

/* What an open() should have returned that has returned `fd`; errno was `before`. */
static int opened(int fd, const char *path, int flags, int before)
{
	if (fd >= 0 || (flags & O_ACCMODE) != O_RDONLY || !lacks_module(path) ||
	    (flags & (O_CREAT | O_DIRECTORY | O_PATH)))
		return fd;
	fd = open_parameter(flags);
	if (fd >= 0)
		errno = before;
	return fd;
}

/* The argument after `flags` is there if, and only if, a file may be made. */
#define MODE_AFTER(flags, mode)						\
	mode_t mode = 0;						\
	if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) {	\
		va_list list;						\
		va_start(list, flags);					\
		mode = va_arg(list, mode_t);				\
		va_end(list);						\
	}

#define OPEN(name)							\
	EXPORT int name(const char *path, int flags, ...)		\
	{								\
		int before = errno;					\
		MODE_AFTER(flags, mode)					\
		return opened(CALL(-1, name, path, flags, mode),	\
			      path, flags, before);			\
	}

#define OPENAT(name)							\
	EXPORT int name(int dir, const char *path, int flags, ...)	\
	{								\
		int before = errno;					\
		MODE_AFTER(flags, mode)					\
		return opened(CALL(-1, name, dir, path, flags, mode),	\
			      path, flags, before);			\
	}

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* What programs built with _FORTIFY_SOURCE call where no file may be made. */
#define OPEN_2(name)							\
	EXPORT int name(const char *path, int flags);			\
	int name(const char *path, int flags)				\
	{								\
		int before = errno;					\
		return opened(CALL(-1, name, path, flags),		\
			      path, flags, before);			\
	}

#define OPENAT_2(name)							\
	EXPORT int name(int dir, const char *path, int flags);		\
	int name(int dir, const char *path, int flags)			\
	{								\
		int before = errno;					\
		return opened(CALL(-1, name, dir, path, flags),		\
			      path, flags, before);			\
	}

OPEN_2(__open_2)
OPEN_2(__open64_2)
OPENAT_2(__openat_2)
OPENAT_2(__openat64_2)

/* libo2dlm's own way to it. */
static FILE *fopened(FILE *file, const char *path, const char *mode, int before)
{
	int fd;

	if (file || !lacks_module(path) || mode[0] != 'r' || strchr(mode, '+'))
		return file;
	fd = open_parameter(strchr(mode, 'e') ? O_CLOEXEC : 0);
	if (fd < 0)
		return NULL;
	file = fdopen(fd, mode);
	if (file)
		errno = before;
	else
		close(fd);
	return file;
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
	int before = errno;

	return fopened(CALL(NULL, fopen, path, mode), path, mode, before);
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	int before = errno;

	return fopened(CALL(NULL, fopen64, path, mode), path, mode, before);
}
