/* Which thread the library belongs to: who starts it, who runs it, and what becomes of it then. */
#include "check.h"

#include <pthread.h>
#include <unistd.h>

static pthread_t elsewhere;
static net_handle_t client;
static int count;

static void on_timer(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)handle, (void)unused;
    CHECK(msg == NETLIB_MSG_TIMER);
    note("", name_of(msg));
    netlib_delete_timer(on_timer, data);
    netlib_stop_event();
}

static int is_through;

static void *call_cancelled(void *unused)
{
    (void)unused;
    CHECK(pthread_cancel(pthread_self()) == 0);
    netlib_ex_wake();
    netlib_stop_event();
    netlib_is_running();
    netlib_send(client, "x", 1);
    netlib_register_timer(on_timer, "other", 60000);
    netlib_delete_timer(on_timer, "other");
    is_through = 1;
    pthread_testcancel();
    return NULL;
}

/* A thread that is cancelled is so in no call that another thread may make. */
static void no_call_is_a_point_of_cancellation(void)
{
    void *ending;
    CHECK(netlib_init() == NETLIB_OK);
    CHECK(pthread_create(&elsewhere, NULL, call_cancelled, NULL) == 0);
    CHECK(pthread_join(elsewhere, &ending) == 0);
    CHECK(ending == PTHREAD_CANCELED && is_through);
}

enum { MANY = 300 };
static uint16_t shared_port;

static void on_client(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    CHECK(msg == NETLIB_MSG_CONNECT);
    client = (net_handle_t)handle;
    netlib_stop_event();
}

static void *run_to_the_end(void *unused)
{
    (void)unused;
    run();
    is_through = 1;
    pthread_testcancel();
    return NULL;
}

/* A thread that is cancelled while it runs the loop goes on until the loop returns. */
static void the_loop_is_not_cancelled(void)
{
    void *ending;
    listen_at(&shared_port, on_client, NULL);
    CHECK(pthread_create(&elsewhere, NULL, run_to_the_end, NULL) == 0);
    while (!netlib_is_running()) {
        usleep(100);
    }
    CHECK(pthread_cancel(elsewhere) == 0);
    /* By now it would have ended, or the test asks for less than it could. */
    usleep(50000);
    close(connect_plainly(shared_port));
    CHECK(pthread_join(elsewhere, &ending) == 0);
    CHECK(ending == PTHREAD_CANCELED && is_through && client > 0);
}

static void on_echo(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    char bytes[100];
    net_handle_t own = (net_handle_t)handle;
    (void)unused;
    if (msg == NETLIB_MSG_CONFIRM) {
        CHECK(netlib_send(own, "hello", 5) == 5);
    }
    if (msg == NETLIB_MSG_READ) {
        int length = netlib_recv(own, bytes, sizeof bytes);
        CHECK(length > 0 && netlib_recv(own, bytes, sizeof bytes) == -1);
        if (strcmp(data, "server") == 0) {
            CHECK(netlib_send(own, bytes, length) == length);
        } else if (++count == MANY) {
            netlib_stop_event();
        } else {
            netlib_close(own);
        }
    }
}

static void *run_and_destroy(void *unused)
{
    (void)unused;
    run();
    CHECK(count == MANY && strcmp(told, "TIMER LOOP") == 0);
    CHECK(netlib_ex_listen("127.0.0.1", 0, ignore, NULL) > 0);
    CHECK(netlib_destroy() == NETLIB_OK);
    return NULL;
}

static void note_once(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)handle, (void)unused;
    if (strstr(told, name_of(msg)) == NULL) {
        note("", name_of(msg));
    }
}

/* A program may start on one thread and run the loop on another, which then has the library. */
static void the_loop_takes_the_library_over(void)
{
    uint16_t port;
    CHECK(netlib_init() == NETLIB_OK);
    listen_at(&port, on_echo, "server");
    netlib_register_timer(note_once, NULL, 0);
    CHECK(netlib_add_loop(note_once, NULL) == NETLIB_OK);
    for (int at = 0; at < MANY; at++) {
        client = netlib_connect("127.0.0.1", port, on_echo, "client");
        CHECK(client > 0);
    }
    CHECK(pthread_create(&elsewhere, NULL, run_and_destroy, NULL) == 0);
    CHECK(pthread_join(elsewhere, NULL) == 0);
    CHECK_FAILS(netlib_close(client), EBADF);
    CHECK(netlib_init() == NETLIB_OK);
}

static int beats;

static void on_beat(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)handle, (void)unused;
    CHECK(msg == NETLIB_MSG_TIMER);
    CHECK(netlib_delete_timer(on_beat, data) == NETLIB_OK);
    __atomic_add_fetch(&beats, 1, __ATOMIC_SEQ_CST);
}

static void *run_handed_over(void *unused)
{
    (void)unused;
    netlib_eventloop(UINT32_MAX);
    CHECK(netlib_destroy() == NETLIB_OK);
    return NULL;
}

/* What the starter asks for while another thread takes the library over is done. */
static void a_hand_over_loses_no_timer(void)
{
    static char data[1000];
    alarm(20);
    for (int at = 0; at < 200; at++) {
        int asked = 0;
        beats = 0;
        CHECK(netlib_init() == NETLIB_OK);
        CHECK(pthread_create(&elsewhere, NULL, run_handed_over, NULL) == 0);
        while (!netlib_is_running() && asked < 1000) {
            CHECK(netlib_register_timer(on_beat, data + asked, 1) == NETLIB_OK);
            asked++;
        }
        while (!netlib_is_running() || __atomic_load_n(&beats, __ATOMIC_SEQ_CST) < asked) {
            usleep(100);
        }
        netlib_stop_event();
        CHECK(pthread_join(elsewhere, NULL) == 0);
        CHECK(beats == asked);
    }
}

static int is_begun;

static void *run_at_once(void *unused)
{
    (void)unused;
    __atomic_store_n(&is_begun, 1, __ATOMIC_SEQ_CST);
    netlib_eventloop(UINT32_MAX);
    CHECK(netlib_destroy() == NETLIB_OK);
    return NULL;
}

/* A loop that begins while another thread ends the library has the old one, or a new one. */
static void a_loop_begins_while_the_library_ends(void)
{
    alarm(20);
    for (int at = 0; at < 300; at++) {
        __atomic_store_n(&is_begun, 0, __ATOMIC_SEQ_CST);
        *told = '\0';
        CHECK(netlib_init() == NETLIB_OK);
        CHECK(pthread_create(&elsewhere, NULL, run_at_once, NULL) == 0);
        while (!__atomic_load_n(&is_begun, __ATOMIC_SEQ_CST)) {
        }
        if (netlib_destroy() != NETLIB_OK) {
            CHECK(errno == EPERM);
        }
        while (!netlib_is_running()) {
            usleep(10);
        }
        CHECK(netlib_register_timer(on_timer, NULL, 1) == NETLIB_OK);
        CHECK(pthread_join(elsewhere, NULL) == 0);
        CHECK(strcmp(told, "TIMER") == 0);
    }
}

static void *run_too_late(void *unused)
{
    (void)unused;
    for (int at = 0; at < 2; at++) {
        errno = 0;
        netlib_eventloop(0);
        CHECK(errno == EPERM);
    }
    CHECK_FAILS(netlib_destroy(), EPERM);
    CHECK_FAILS(netlib_init(), EPERM);
    return NULL;
}

/* Once it has run, the loop stays with its thread, and another one is told so, once. */
static void the_loop_stays_where_it_has_run(void)
{
    netlib_register_timer(on_timer, NULL, 1);
    run();
    CHECK(pthread_create(&elsewhere, NULL, run_too_late, NULL) == 0);
    CHECK(pthread_join(elsewhere, NULL) == 0);
    netlib_register_timer(on_timer, NULL, 1);
    run();
    CHECK(strcmp(told, "TIMER TIMER") == 0);
}

static void *register_first(void *unused)
{
    (void)unused;
    CHECK(netlib_register_timer(on_timer, "deleted", 1) == NETLIB_OK);
    CHECK(netlib_register_timer(on_timer, NULL, 1) == NETLIB_OK);
    CHECK(netlib_delete_timer(on_timer, "deleted") == NETLIB_OK);
    return NULL;
}

/* A thread that registers a timer before anybody has started anything does not start it. */
static void a_timer_may_come_before_the_start(void)
{
    CHECK(pthread_create(&elsewhere, NULL, register_first, NULL) == 0);
    CHECK(pthread_join(elsewhere, NULL) == 0);
    CHECK(netlib_ex_limit(NETLIB_EX_SOCKETS_MAX, 10) == NETLIB_OK);
    CHECK(netlib_init() == NETLIB_OK);
    run();
    CHECK(strcmp(told, "TIMER") == 0);
}

static void *run_and_exit(void *peer)
{
    listen_at(&shared_port, on_client, NULL);
    *(int *)peer = connect_plainly(shared_port);
    run();
    CHECK(netlib_send(client, "bye", 3) == 3);
    pthread_exit(NULL);
}

/* The library ends with the thread that has run its loop, and others may start it again. */
static void the_library_ends_with_its_thread(void)
{
    char bytes[4];
    int peer;
    for (int at = 0; at < 3; at++) {
        CHECK(pthread_create(&elsewhere, NULL, run_and_exit, &peer) == 0);
        CHECK(pthread_join(elsewhere, NULL) == 0);
        CHECK(recv(peer, bytes, 4, MSG_WAITALL) == 3 && memcmp(bytes, "bye", 3) == 0);
        CHECK_FAILS(netlib_close(client), EBADF);
        CHECK(netlib_ex_limit(NETLIB_EX_SOCKETS_MAX, 10) == NETLIB_OK);
        close(peer);
    }
}

static void on_exit_thread(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)msg, (void)handle, (void)unused;
    pthread_exit(NULL);
}

static void *run_to_exit(void *unused)
{
    (void)unused;
    netlib_register_timer(on_exit_thread, NULL, 1);
    run();
    return NULL;
}

/* pthread_exit leaves a callback as an exception does; this one ends the process. */
static void a_thread_does_not_exit_in_a_callback(void)
{
    CHECK(pthread_create(&elsewhere, NULL, run_to_exit, NULL) == 0);
    pthread_join(elsewhere, NULL);
    CHECK(!"the process goes on");
}

static const struct scenario scenarios[] = {
    SCENARIO(no_call_is_a_point_of_cancellation),
    SCENARIO(the_loop_is_not_cancelled),
    SCENARIO(the_loop_takes_the_library_over),
    SCENARIO(a_hand_over_loses_no_timer),
    SCENARIO(a_loop_begins_while_the_library_ends),
    SCENARIO(the_loop_stays_where_it_has_run),
    SCENARIO(a_timer_may_come_before_the_start),
    SCENARIO(the_library_ends_with_its_thread),
    SCENARIO(a_thread_does_not_exit_in_a_callback),
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
