/* The peer of benchmarks/cluster.py on dlmfs: open and close of the file that is its argument.
 * Each line of input is a number of rounds; each line of output how many microseconds each took. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    int rounds;

    if (argc != 2)
        return 1;
    while (scanf("%d", &rounds) == 1) {
        for (int i = 0; i < rounds; i++) {
            double begin = now();
            int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
            if (fd < 0 || close(fd))
                return 2;
            printf("%s%.2f", i ? " " : "", (now() - begin) * 1e6);
        }
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
