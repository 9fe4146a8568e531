/* The peer of benchmarks/cluster.py: the same through libdlm, from one thread, as fast as it goes.
 * Each line of input is a number of rounds; for each come two lines of output: how many microseconds
 * each lock and unlock took, and each conversion from NL to EX and back. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

#include <libdlm.h>

static dlm_lshandle_t lockspace;
static struct dlm_lksb status;
static int done;

static void ast(void *argument)
{
    (void)argument;
    done = 1;
}

static void await(int expected)
{
    struct pollfd fd = {dlm_ls_get_fd(lockspace), POLLIN, 0};

    while (!done) {
        poll(&fd, 1, -1);
        dlm_dispatch(fd.fd);
    }
    done = 0;
    if (status.sb_status != expected)
        exit(2);
}

static void ask(int mode, int flags)
{
    if (dlm_ls_lock(lockspace, mode, &status, flags | LKF_VALBLK, "r", 1, 0, ast, &status, NULL, NULL))
        exit(3);
    await(0);
}

static void give_up(void)
{
    if (dlm_ls_unlock(lockspace, status.sb_lkid, LKF_VALBLK, &status, &status))
        exit(4);
    await(EUNLOCK);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(void)
{
    static char lvb[32];
    int rounds;

    status.sb_lvbptr = lvb;
    lockspace = dlm_create_lockspace("bench-c", 0600);
    if (!lockspace)
        return 1;
    while (scanf("%d", &rounds) == 1) {
        for (int i = 0; i < rounds; i++) {
            double begin = now();
            ask(LKM_EXMODE, 0);
            give_up();
            printf("%.2f ", (now() - begin) * 1e6);
        }
        ask(LKM_NLMODE, 0);
        for (int i = 0; i < rounds; i++) {
            double begin = now();
            ask(LKM_EXMODE, LKF_CONVERT);
            ask(LKM_NLMODE, LKF_CONVERT);
            printf("%s%.2f", i ? " " : "\n", (now() - begin) * 1e6);
        }
        printf("\n");
        fflush(stdout);
        give_up();
    }
    return dlm_release_lockspace("bench-c", lockspace, 0) ? 5 : 0;
}
