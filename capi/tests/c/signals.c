/* Signal handlers and other threads: what they may call does no harm, wherever they interrupt. */
#include "check.h"
#include "counting.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static net_handle_t sender = NETLIB_INVALID_HANDLE;
static volatile sig_atomic_t signals;
static volatile sig_atomic_t is_over;
static int turns;
/* Calls that have interrupted the library, and may not. */
static volatile sig_atomic_t refusals;
/* Numbers that were sent, and that came. */
static uint32_t numbers_sent;
static uint32_t numbers_refused;
static uint32_t numbers_came;

static void on_last(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)handle, (void)unused;
    note("", name_of(msg));
    netlib_delete_timer(on_last, data);
    netlib_stop_event();
}

static void on_alarm(int number)
{
    (void)number;
    signals++;
    netlib_register_timer(on_last, NULL, 1);
}

static void raise_once(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)msg, (void)handle, (void)unused;
    netlib_delete_timer(raise_once, NULL);
    raise(SIGALRM);
}

/* A handler that interrupts a callback registers a timer. */
static void a_handler_registers_a_timer_in_a_callback(void)
{
    signal(SIGALRM, on_alarm);
    netlib_register_timer(raise_once, NULL, 1);
    run();
    CHECK(signals == 1 && strcmp(told, "TIMER") == 0);
}

/* A handler that interrupts the wait ends it, so that its timer is heeded at once. */
static void a_handler_registers_a_timer_in_the_wait(void)
{
    struct itimerval soon = {{0, 0}, {0, 30000}};
    signal(SIGALRM, on_alarm);
    CHECK(netlib_init() == NETLIB_OK);
    setitimer(ITIMER_REAL, &soon, NULL);
    netlib_eventloop(UINT32_MAX);
    CHECK(signals == 1 && strcmp(told, "TIMER") == 0);
}

static void on_stop(int number)
{
    (void)number;
    netlib_stop_event();
}

/* A handler ends the loop, at once and not after the wait. */
static void a_handler_stops_the_loop(void)
{
    struct itimerval soon = {{0, 0}, {0, 30000}};
    signal(SIGALRM, on_stop);
    CHECK(netlib_init() == NETLIB_OK);
    setitimer(ITIMER_REAL, &soon, NULL);
    netlib_eventloop(UINT32_MAX);
}

static void send_number(void)
{
    int sent = netlib_send(sender, &numbers_sent, sizeof numbers_sent);
    if (sent == (int)sizeof numbers_sent) {
        numbers_sent++;
    } else {
        numbers_refused++;
    }
}

static void on_storm(int number)
{
    (void)number;
    if (!is_over) {
        signals++;
        for (int at = 0; at < 3; at++) {
            send_number();
        }
        netlib_register_timer(on_last, "other", 60000);
        netlib_delete_timer(on_last, "other");
        /* Not for handlers; but with this handle it does nothing where it gets in. */
        errno = 0;
        CHECK(netlib_option(NETLIB_INVALID_HANDLE, 99, NULL) == NETLIB_ERROR);
        refusals += errno == EBUSY;
    }
}

/* Checks that numbers come in the order of the calls, none missing and none in pieces. */
static void on_numbers(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_READ) {
        uint32_t number;
        while (netlib_recv((net_handle_t)handle, &number, sizeof number) == sizeof number) {
            CHECK(number == numbers_came);
            numbers_came++;
        }
    }
    CHECK(msg != NETLIB_MSG_CLOSE);
    if (is_over && numbers_came == numbers_sent) {
        netlib_stop_event();
    }
}

/* What handlers interrupt most of the time: allocations, by the program and by the library. */
static void on_busy_turn(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    sigset_t alarm_only;
    (void)data, (void)msg, (void)handle, (void)unused;
    for (size_t size = 1; size < 200000; size = size * 3 + 1) {
        char *block = malloc(size);
        CHECK(block != NULL);
        block[size - 1] = 1;
        free(block);
    }
    if (sender > 0 && !is_over) {
        netlib_register_timer(on_busy_turn, &turns, 1 + (uint64_t)turns % 3);
        /* The number itself must not change between the send and the count. */
        sigemptyset(&alarm_only);
        sigaddset(&alarm_only, SIGALRM);
        sigprocmask(SIG_BLOCK, &alarm_only, NULL);
        send_number();
        sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
    }
    if (++turns >= 3000 && signals >= 300) {
        is_over = 1;
        if (numbers_came == numbers_sent) {
            netlib_stop_event();
        }
    }
}

static void on_storm_client(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    struct itimerval often = {{0, 300}, {0, 300}};
    (void)data, (void)unused;
    CHECK(msg == NETLIB_MSG_CONFIRM || msg == NETLIB_MSG_WRITE);
    if (msg == NETLIB_MSG_CONFIRM) {
        sender = (net_handle_t)handle;
        signal(SIGALRM, on_storm);
        setitimer(ITIMER_REAL, &often, NULL);
    }
}

/* Thousands of interruptions anywhere: nothing hangs, and no byte is lost, doubled or moved. */
static void a_storm_of_signals_loses_nothing(void)
{
    struct itimerval never = {{0, 0}, {0, 0}};
    uint16_t port;
    listen_at(&port, on_numbers, NULL);
    netlib_add_loop(on_busy_turn, NULL);
    CHECK(netlib_connect("127.0.0.1", port, on_storm_client, NULL) > 0);
    run();
    setitimer(ITIMER_REAL, &never, NULL);
    snprintf(told, sizeof told, "%d signals, %u sent, %u came, %u refused", (int)signals,
             numbers_sent, numbers_came, numbers_refused);
    CHECK(signals >= 300 && numbers_sent > 1000);
    CHECK(numbers_came == numbers_sent && numbers_refused == 0 && refusals > 0);
}

enum { ATTEMPTS = 300000 };
static uint16_t quarrel_port;
static volatile sig_atomic_t closes;

static void on_quarrel(int number)
{
    (void)number;
    errno = 0;
    if (netlib_close(sender) == NETLIB_OK) {
        closes++;
    } else {
        refusals += errno == EBUSY;
    }
}

static void on_quarreller(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    struct itimerval often = {{0, 50}, {0, 50}}, never = {{0, 0}, {0, 0}};
    (void)data, (void)unused;
    CHECK(msg == NETLIB_MSG_CONFIRM);
    sender = (net_handle_t)handle;
    setitimer(ITIMER_REAL, &often, NULL);
    for (int at = 0; at < ATTEMPTS && netlib_send(sender, "x", 1) >= 0; at++) {
    }
    setitimer(ITIMER_REAL, &never, NULL);
    if (++turns == 100) {
        netlib_stop_event();
    } else {
        netlib_connect("127.0.0.1", quarrel_port, on_quarreller, NULL);
    }
}

/* What handlers may not call does no harm where they interrupt a send, nor is waited for by it;
 * also where their own signal is not blocked meanwhile, as that of `signal` in plain C is not. */
static void a_handler_does_not_wait_for_what_it_interrupts(void)
{
    struct sigaction action = {0};
    action.sa_handler = on_quarrel;
    action.sa_flags = SA_NODEFER;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    listen_at(&quarrel_port, ignore, NULL);
    netlib_connect("127.0.0.1", quarrel_port, on_quarreller, NULL);
    run();
    CHECK(refusals > 0 && closes > 0);
}

static void *call_from_elsewhere(void *unused)
{
    uint16_t port = 0;
    char byte;
    (void)unused;
    CHECK_FAILS(netlib_init(), EPERM);
    CHECK_FAILS(netlib_destroy(), EPERM);
    CHECK_FAILS(netlib_listen("127.0.0.1", 0, on_last, NULL), EPERM);
    CHECK_FAILS(netlib_connect("127.0.0.1", 1, on_last, NULL), EPERM);
    CHECK_FAILS(netlib_recv(sender, &byte, 1), EPERM);
    CHECK_FAILS(netlib_close(sender), EPERM);
    CHECK_FAILS(netlib_option(sender, NETLIB_OPT_GET_REMOTE_PORT, &port), EPERM);
    CHECK_FAILS(netlib_add_loop(on_last, NULL), EPERM);
    CHECK_FAILS(netlib_ex_listen("127.0.0.1", 0, on_last, NULL), EPERM);
    CHECK_FAILS(netlib_ex_backend("epoll"), EPERM);
    CHECK_FAILS(netlib_ex_limit(NETLIB_EX_SOCKETS_MAX, 1), EPERM);
    CHECK_FAILS(netlib_ex_stats(&byte, 1), EPERM);
    CHECK_FAILS(netlib_ex_remote_ip(sender, &byte, 1), EPERM);
    CHECK_FAILS(netlib_ex_local_ip(sender, &byte, 1), EPERM);
    CHECK_FAILS(netlib_send(0, "x", 1), EBADF);
    errno = 0;
    netlib_eventloop(0);
    CHECK(errno == EPERM);
    netlib_is_running();
    netlib_ex_wake();
    /* What is allowed. */
    numbers_sent = 1;
    CHECK(netlib_send(sender, "\0\0\0", 4) == 4);
    CHECK(netlib_register_timer(on_last, NULL, 1) == NETLIB_OK);
    return NULL;
}

static pthread_t elsewhere;

static void start_thread(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONFIRM) {
        sender = (net_handle_t)handle;
        CHECK(pthread_create(&elsewhere, NULL, call_from_elsewhere, NULL) == 0);
    }
}

static void on_number(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_READ) {
        numbers_came += drain((net_handle_t)handle) == 4;
    }
}

/* Other threads are refused, but for what they may ask of the loop. */
static void other_threads_may_only_ask(void)
{
    uint16_t port;
    listen_at(&port, on_number, NULL);
    netlib_connect("127.0.0.1", port, start_thread, NULL);
    run();
    CHECK(pthread_join(elsewhere, NULL) == 0);
    while (numbers_came == 0) {
        netlib_register_timer(on_last, NULL, 1);
        run();
    }
}

/* Runs the loop, which somebody stops soon. Without a wake it would wait for much longer. */
static void run_briefly(void)
{
    time_t start = time(NULL);
    run();
    CHECK(time(NULL) - start < 8);
}

static void *register_from_elsewhere(void *unused)
{
    (void)unused;
    /* By now the loop waits, or the test asks for less than it could. */
    usleep(50000);
    CHECK(netlib_register_timer(on_last, NULL, 1) == NETLIB_OK);
    return NULL;
}

/* What another thread asks for ends the wait, and is done. */
static void a_thread_registers_a_timer(void)
{
    CHECK(netlib_init() == NETLIB_OK);
    CHECK(pthread_create(&elsewhere, NULL, register_from_elsewhere, NULL) == 0);
    run_briefly();
    CHECK(pthread_join(elsewhere, NULL) == 0);
    CHECK(strcmp(told, "TIMER") == 0);
}

static void *wake_and_stop(void *unused)
{
    (void)unused;
    while (turns == 0) {
        netlib_ex_wake();
    }
    /* By now the loop waits again, or the test asks for less than it could. */
    usleep(50000);
    netlib_stop_event();
    return NULL;
}

static void count_turn(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)msg, (void)handle, (void)unused;
    __atomic_add_fetch(&turns, 1, __ATOMIC_RELAXED);
}

/* A wake ends the wait, and so does a stop, from any thread. */
static void a_thread_wakes_and_stops_the_loop(void)
{
    netlib_add_loop(count_turn, NULL);
    CHECK(pthread_create(&elsewhere, NULL, wake_and_stop, NULL) == 0);
    run_briefly();
    CHECK(pthread_join(elsewhere, NULL) == 0);
    CHECK(turns > 0);
}

static void *wake_until_over(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&turns, __ATOMIC_RELAXED)) {
        netlib_ex_wake();
    }
    return NULL;
}

/* A wake that comes as the library ends, or has ended, does nothing. */
static void waking_may_outlast_the_library(void)
{
    CHECK(pthread_create(&elsewhere, NULL, wake_until_over, NULL) == 0);
    for (int at = 0; at < 30; at++) {
        CHECK(netlib_init() == NETLIB_OK);
        CHECK(netlib_destroy() == NETLIB_OK);
    }
    __atomic_store_n(&turns, 1, __ATOMIC_RELAXED);
    CHECK(pthread_join(elsewhere, NULL) == 0);
}

static char big[60000];

static void on_flood(int number)
{
    (void)number;
    int sent = 0;
    /* 256 KiB is all that waits for the loop. */
    while (netlib_send(sender, big, sizeof big) == (int)sizeof big) {
        sent++;
    }
    CHECK(errno == EAGAIN && sent >= 1 && sent <= 4);
    CHECK(netlib_send(sender, big, 1 << 20) <= 0);
}

static void on_flood_client(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    note("", name_of(msg));
    if (msg == NETLIB_MSG_CONFIRM) {
        sender = (net_handle_t)handle;
        signal(SIGALRM, on_flood);
        raise(SIGALRM);
    } else {
        netlib_stop_event();
    }
}

/* A handler that is told that there is no room hears of it when there is. */
static void a_refused_handler_is_followed_by_write(void)
{
    uint16_t port;
    listen_at(&port, on_number, NULL);
    netlib_connect("127.0.0.1", port, on_flood_client, NULL);
    run();
    CHECK(strcmp(told, "CONFIRM WRITE") == 0);
}

static void on_frugal(int number)
{
    (void)number;
    is_counting = 1;
    signals++;
    for (int at = 0; at < 20; at++) {
        netlib_send(sender, big, 1 + at * 500);
        netlib_register_timer(on_last, big + at, 60000);
        netlib_delete_timer(on_last, big + at);
    }
    is_counting = 0;
}

static void on_frugal_client(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONFIRM) {
        sender = (net_handle_t)handle;
        raise(SIGALRM);
        netlib_stop_event();
    }
}

/* A handler may have interrupted malloc, so nothing that it may call allocates or frees. */
static void a_handler_allocates_nothing(void)
{
    uint16_t port;
    signal(SIGALRM, on_frugal);
    listen_at(&port, on_number, NULL);
    /* Before it is told whether that has worked, and in between. */
    sender = netlib_connect("127.0.0.1", port, on_frugal_client, NULL);
    raise(SIGALRM);
    run();
    raise(SIGALRM);
    CHECK(signals == 3 && allocations == 0);
}

/* A signal that was blocked at the start, and is not any more, has a handler like any other. */
static void a_signal_may_be_unblocked_after_the_start(void)
{
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    signal(SIGALRM, on_frugal);
    sigprocmask(SIG_BLOCK, &alarm_only, NULL);
    CHECK(netlib_init() == NETLIB_OK);
    sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
    CHECK(netlib_add_loop(ignore, NULL) == NETLIB_OK);
    raise(SIGALRM);
    CHECK(signals == 1 && allocations == 0);
}

static const struct scenario scenarios[] = {
    SCENARIO(a_handler_registers_a_timer_in_a_callback),
    SCENARIO(a_handler_registers_a_timer_in_the_wait),
    SCENARIO(a_handler_stops_the_loop),
    SCENARIO(a_storm_of_signals_loses_nothing),
    SCENARIO(a_handler_does_not_wait_for_what_it_interrupts),
    SCENARIO(other_threads_may_only_ask),
    SCENARIO(a_thread_registers_a_timer),
    SCENARIO(a_thread_wakes_and_stops_the_loop),
    SCENARIO(waking_may_outlast_the_library),
    SCENARIO(a_refused_handler_is_followed_by_write),
    SCENARIO(a_handler_allocates_nothing),
    SCENARIO(a_signal_may_be_unblocked_after_the_start),
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
