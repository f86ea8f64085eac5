/* What must not be done is answered, and breaks nothing. */
#include "check.h"

/* Handles that nobody has are refused by everything, before and after the start. */
static void unknown_handles_are_refused(void)
{
    static const net_handle_t unknown[] = {-1, 0, 1, 1 << 20, 12345678, 0x7FFFFFFF, -2147483647};
    char byte = 0;
    uint16_t port;
    for (int round = 0; round < 2; round++) {
        for (size_t at = 0; at < sizeof unknown / sizeof *unknown; at++) {
            if (round == 1 && at == 3) {
                continue; /* The listener's own. */
            }
            CHECK_FAILS(netlib_send(unknown[at], &byte, 1), EBADF);
            CHECK_FAILS(netlib_recv(unknown[at], &byte, 1), EBADF);
            CHECK_FAILS(netlib_close(unknown[at]), EBADF);
            CHECK_FAILS(netlib_option(unknown[at], NETLIB_OPT_GET_REMOTE_PORT, &port), EBADF);
            CHECK_FAILS(netlib_option(unknown[at], 99, NULL), EBADF);
            CHECK_FAILS(netlib_ex_remote_ip(unknown[at], &byte, 1), EBADF);
            CHECK_FAILS(netlib_ex_local_ip(unknown[at], &byte, 1), EBADF);
        }
        CHECK(netlib_destroy() == NETLIB_OK);
        CHECK(listen_at(&port, ignore, NULL) == 1 << 20);
    }
}

/* Null pointers and negative lengths are refused. */
static void null_and_negative_are_refused(void)
{
    uint16_t port;
    CHECK_FAILS(netlib_listen(NULL, 0, ignore, NULL), EINVAL);
    CHECK_FAILS(netlib_listen("127.0.0.1", 0, NULL, NULL), EINVAL);
    CHECK_FAILS(netlib_listen("\xFF", 0, ignore, NULL), EINVAL);
    CHECK_FAILS(netlib_connect(NULL, 1, ignore, NULL), EINVAL);
    CHECK_FAILS(netlib_connect("127.0.0.1", 1, NULL, NULL), EINVAL);
    CHECK_FAILS(netlib_connect("\xFF", 1, ignore, NULL), EINVAL);
    CHECK_FAILS(netlib_register_timer(NULL, NULL, 1), EINVAL);
    CHECK_FAILS(netlib_delete_timer(NULL, NULL), EINVAL);
    CHECK_FAILS(netlib_add_loop(NULL, NULL), EINVAL);
    CHECK_FAILS(netlib_ex_listen(NULL, 0, ignore, NULL), EINVAL);
    CHECK_FAILS(netlib_ex_backend(NULL), EINVAL);
    net_handle_t handle = listen_at(&port, ignore, NULL);
    CHECK_FAILS(netlib_send(handle, told, -1), EINVAL);
    CHECK_FAILS(netlib_send(handle, NULL, 1), EFAULT);
    CHECK_FAILS(netlib_recv(handle, told, -1), EINVAL);
    CHECK_FAILS(netlib_recv(handle, NULL, 1), EFAULT);
    CHECK_FAILS(netlib_option(handle, NETLIB_OPT_GET_LOCAL_PORT, NULL), EINVAL);
    CHECK_FAILS(netlib_option(handle, NETLIB_OPT_SET_CALLBACK, NULL), EINVAL);
    CHECK(netlib_option(handle, 99, NULL) == NETLIB_OK);
    CHECK(netlib_option(handle, -1, NULL) == NETLIB_OK);
    CHECK(netlib_ex_stats(NULL, 0) > 0);
    CHECK(netlib_ex_local_ip(handle, NULL, 0) == 9);
    CHECK_FAILS(netlib_ex_remote_ip(handle, NULL, 0), ENOTCONN);
}

/* A program in C has no std::string, and is told so. */
static void a_c_program_has_no_string(void)
{
    char no_string[64];
    uint16_t port;
    net_handle_t handle = listen_at(&port, ignore, NULL);
    CHECK_FAILS(netlib_option(handle, NETLIB_OPT_GET_LOCAL_IP, no_string), EOPNOTSUPP);
}

/* Limits have bounds, and are chosen before the start. */
static void limits_are_chosen_before_the_start(void)
{
    char stats[1024];
    CHECK_FAILS(netlib_ex_limit(0, 1), EINVAL);
    CHECK_FAILS(netlib_ex_limit(8, 1), EINVAL);
    CHECK_FAILS(netlib_ex_limit(NETLIB_EX_SOCKETS_MAX, 0), EINVAL);
    CHECK_FAILS(netlib_ex_limit(NETLIB_EX_SOCKETS_MAX, (1 << 20) + 1), EINVAL);
    CHECK_FAILS(netlib_ex_limit(NETLIB_EX_SEND_BYTES_MAX, 0), EINVAL);
    CHECK_FAILS(netlib_ex_limit(NETLIB_EX_SEND_BYTES_MAX, UINT64_MAX), EINVAL);
    CHECK_FAILS(netlib_ex_limit(NETLIB_EX_BUFFERED_BYTES_MAX, (2 << 20) - 1), EINVAL);
    CHECK_FAILS(netlib_ex_backend("kqueue"), EINVAL);
    CHECK(netlib_ex_limit(NETLIB_EX_SOCKETS_MAX, 2) == NETLIB_OK);
    CHECK(netlib_ex_limit(NETLIB_EX_RECV_BYTES_MAX, 1 << 30) == NETLIB_OK);
    CHECK(netlib_ex_limit(NETLIB_EX_BUFFERED_BYTES_MAX, UINT64_C(1) << 40) == NETLIB_OK);
    CHECK(netlib_ex_limit(NETLIB_EX_CONNECT_TIMEOUT_MS, 1) == NETLIB_OK);
    CHECK(netlib_ex_limit(NETLIB_EX_CLOSE_TIMEOUT_MS, 1) == NETLIB_OK);
    CHECK(netlib_ex_limit(NETLIB_EX_WRITE_STALL_MS, 0) == NETLIB_OK);
    CHECK(netlib_ex_backend("epoll") == NETLIB_OK);
    CHECK(netlib_ex_listen("127.0.0.1", 0, ignore, NULL) > 0);
    CHECK(netlib_ex_listen("127.0.0.1", 0, ignore, NULL) > 0);
    CHECK_FAILS(netlib_ex_listen("127.0.0.1", 0, ignore, NULL), EMFILE);
    CHECK_FAILS(netlib_connect("127.0.0.1", 1, ignore, NULL), EMFILE);
    CHECK_FAILS(netlib_ex_limit(NETLIB_EX_SOCKETS_MAX, 3), EBUSY);
    CHECK_FAILS(netlib_ex_backend("auto"), EBUSY);
    CHECK(netlib_ex_stats(stats, sizeof stats) < (int)sizeof stats);
    CHECK(strncmp(stats, "backend=epoll\nlistening=2\n", 26) == 0);
}

/* A backend that cannot be had is told, and another can be chosen. */
static void a_bad_environment_is_told(void)
{
    setenv("NETLIB_BACKEND", "nonsense", 1);
    CHECK_FAILS(netlib_init(), EINVAL);
    CHECK_FAILS(netlib_listen("127.0.0.1", 0, ignore, NULL), EINVAL);
    errno = 0;
    netlib_eventloop(0);
    CHECK(errno == EINVAL && !netlib_is_running());
    CHECK(netlib_ex_backend("epoll") == NETLIB_OK);
    CHECK(netlib_init() == NETLIB_OK);
}

/* A loop that cannot run returns at once, and the reason is told. */
static void a_loop_that_cannot_run_says_so(void)
{
    setenv("NETLIB_BACKEND", "nonsense", 1);
    for (int at = 0; at < 3; at++) {
        errno = 0;
        netlib_eventloop(0);
        CHECK(errno == EINVAL);
    }
}

static const struct scenario scenarios[] = {
    SCENARIO(unknown_handles_are_refused),
    SCENARIO(null_and_negative_are_refused),
    SCENARIO(a_c_program_has_no_string),
    SCENARIO(limits_are_chosen_before_the_start),
    SCENARIO(a_bad_environment_is_told),
    SCENARIO(a_loop_that_cannot_run_says_so),
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
