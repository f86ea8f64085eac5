/* Back-pressure: what a send takes is final, and whoever was refused is told, and nobody else. */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

enum { MANY = 1000000 };
static char many[MANY];
static net_handle_t served[3];
static int peers[3];
static int served_count;
static pthread_t elsewhere;
static long taken;

/* Bytes whose place in the stream can be told from them. */
static void fill_many(void)
{
    for (int at = 0; at < MANY; at++) {
        many[at] = (char)(at % 251);
    }
}

/* Reads so many bytes of the stream, and checks that they are those. */
static void read_stream(int peer, long from, long length)
{
    char bytes[10000];
    struct timeval patience = {10, 0};
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (long at = from; at < from + length;) {
        long left = from + length - at;
        ssize_t got = read(peer, bytes, left < 10000 ? (size_t)left : sizeof bytes);
        CHECK(got > 0);
        for (ssize_t place = 0; place < got; place++, at++) {
            CHECK(bytes[place] == (char)(at % MANY % 251));
        }
    }
}

static void *read_all(void *unused)
{
    (void)unused;
    read_stream(peers[0], 0, taken);
    return NULL;
}

static char of_served(net_handle_t handle)
{
    for (int at = 0; at < 3; at++) {
        if (served[at] == handle) {
            return (char)('a' + at);
        }
    }
    return '?';
}

/* Accepts three; when all are there the first ones take everything that there is room for. */
static void on_crowd(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    char who[] = "?:";
    net_handle_t own = (net_handle_t)handle;
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONNECT) {
        served[served_count++] = own;
        if (served_count == 3) {
            taken = netlib_send(served[0], many, MANY);
            CHECK(taken == MANY);
            /* Seven eighths of two MiB is what may be sent, and four bytes are left of it. */
            CHECK(netlib_send(served[0], many, 835004) == 835004);
            taken += 835004;
            CHECK(netlib_send(served[1], "hello", 5) == 4);
            errno = 0;
            CHECK(netlib_send(served[1], "hello", 5) == 0 && errno == EAGAIN);
            CHECK(netlib_send(served[0], many, 20000) == 0 && errno == EAGAIN);
            CHECK(pthread_create(&elsewhere, NULL, read_all, NULL) == 0);
        }
        return;
    }
    who[0] = of_served(own);
    note(who, name_of(msg));
    if (msg == NETLIB_MSG_WRITE) {
        CHECK(netlib_send(own, "world", 5) == 5);
        if (strstr(told, "a:") != NULL && strstr(told, "b:") != NULL) {
            netlib_stop_event();
        }
    }
}

/* The limit of all together refuses as a connection's own does, and ends nobody's connection. */
static void the_total_limit_refuses_and_write_follows(void)
{
    uint16_t port;
    char bytes[9];
    fill_many();
    CHECK(netlib_ex_limit(NETLIB_EX_BUFFERED_BYTES_MAX, 2 << 20) == NETLIB_OK);
    CHECK(netlib_ex_limit(NETLIB_EX_SEND_BYTES_MAX, 2 << 20) == NETLIB_OK);
    listen_at(&port, on_crowd, NULL);
    for (int at = 0; at < 3; at++) {
        peers[at] = connect_plainly(port);
    }
    run();
    CHECK(pthread_join(elsewhere, NULL) == 0);
    CHECK(strcmp(told, "a:WRITE b:WRITE") == 0 || strcmp(told, "b:WRITE a:WRITE") == 0);
    CHECK(recv(peers[1], bytes, 9, MSG_WAITALL) == 9 && memcmp(bytes, "hellworld", 9) == 0);
}

/* What nobody has received yet fills the room of all. */
enum { UNREAD = 1835008 };

static void *write_unread(void *unused)
{
    (void)unused;
    send(peers[0], many, MANY, MSG_NOSIGNAL);
    send(peers[0], many, UNREAD - MANY, MSG_NOSIGNAL);
    return NULL;
}

static void *send_in_vain(void *unused)
{
    (void)unused;
    errno = 0;
    CHECK(netlib_send(served[1], many, 60000) == 0 && errno == EAGAIN);
    return NULL;
}

static void on_unread(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    char stats[1024];
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONNECT) {
        served[served_count++] = (net_handle_t)handle;
        return;
    }
    CHECK(msg == NETLIB_MSG_READ);
    CHECK(netlib_ex_stats(stats, sizeof stats) < (int)sizeof stats);
    if (atol(strstr(stats, "buffered_bytes=") + 15) >= UNREAD - 30000) {
        pthread_t other;
        CHECK(pthread_create(&other, NULL, send_in_vain, NULL) == 0);
        CHECK(pthread_join(other, NULL) == 0);
        netlib_stop_event();
    }
}

/* A thread is told at once that there is no room, also where bytes to receive have taken it. */
static void a_thread_feels_what_is_unread(void)
{
    uint16_t port;
    CHECK(netlib_ex_limit(NETLIB_EX_BUFFERED_BYTES_MAX, 2 << 20) == NETLIB_OK);
    CHECK(netlib_ex_limit(NETLIB_EX_RECV_BYTES_MAX, UNREAD) == NETLIB_OK);
    listen_at(&port, on_unread, NULL);
    peers[0] = connect_plainly(port);
    peers[1] = connect_plainly(port);
    CHECK(pthread_create(&elsewhere, NULL, write_unread, NULL) == 0);
    run();
    CHECK(pthread_join(elsewhere, NULL) == 0);
}

static void *send_little_in_vain(void *unused)
{
    (void)unused;
    errno = 0;
    CHECK(netlib_send(served[1], many, 100) == 0 && errno == EAGAIN);
    return NULL;
}

static void on_filling(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg != NETLIB_MSG_CONNECT) {
        return;
    }
    served[served_count++] = (net_handle_t)handle;
    if (served_count == 2) {
        CHECK(netlib_send(served[0], many, MANY) == MANY);
        CHECK(netlib_send(served[0], many, 830000) == 830000);
        /* Short, and with what it takes to remember it all that is left. */
        CHECK(netlib_send(served[1], many, 5000) == 5000);
        CHECK(pthread_create(&elsewhere, NULL, send_little_in_vain, NULL) == 0);
        CHECK(pthread_join(elsewhere, NULL) == 0);
        /* Nor has the callback more than the eight bytes that are left. */
        CHECK(netlib_send(served[1], many, 100) == 8);
        netlib_stop_event();
    }
}

/* And where the callback in hand has just sent so much. */
static void a_thread_feels_what_a_callback_has_sent(void)
{
    uint16_t port;
    CHECK(netlib_ex_limit(NETLIB_EX_BUFFERED_BYTES_MAX, 2 << 20) == NETLIB_OK);
    CHECK(netlib_ex_limit(NETLIB_EX_SEND_BYTES_MAX, 2 << 20) == NETLIB_OK);
    listen_at(&port, on_filling, NULL);
    peers[0] = connect_plainly(port);
    peers[1] = connect_plainly(port);
    run();
    close(peers[0]);
    close(peers[1]);
}

static long stat_of(const char *name)
{
    char stats[1024];
    CHECK(netlib_ex_stats(stats, sizeof stats) < (int)sizeof stats);
    return atol(strstr(stats, name) + strlen(name));
}

static void write_to_both(void)
{
    CHECK(write(peers[0], "?", 1) == 1);
    CHECK(write(peers[1], "?", 1) == 1);
}

/* Answers two connections at once, which may come in one turn or in two. */
static void on_pair(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    static long turn;
    static int answered, tries;
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONNECT && ++served_count == 2) {
        write_to_both();
    }
    if (msg != NETLIB_MSG_READ) {
        return;
    }
    CHECK(drain((net_handle_t)handle) == 1);
    if (++answered % 2 == 1) {
        turn = stat_of("turns=");
        CHECK(netlib_send((net_handle_t)handle, many, 100) == 100);
    } else if (stat_of("turns=") == turn) {
        CHECK(stat_of("buffered_bytes=") == 100);
        netlib_stop_event();
    } else {
        CHECK(++tries < 100);
        write_to_both();
    }
}

/* What a callback has sent is counted when the next one comes, in the same turn. */
static void a_callback_sees_what_the_one_before_has_sent(void)
{
    uint16_t port;
    listen_at(&port, on_pair, NULL);
    peers[0] = connect_plainly(port);
    peers[1] = connect_plainly(port);
    run();
    close(peers[0]);
    close(peers[1]);
}

enum { PIECE = 999, PIECES = 700 };

static void *send_piece(void *unused)
{
    (void)unused;
    CHECK(netlib_send(served[0], many + taken, PIECE) == PIECE);
    taken += PIECE;
    return NULL;
}

static void on_pieces(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    CHECK(msg == NETLIB_MSG_CONNECT);
    served[0] = (net_handle_t)handle;
    for (int at = 0; at < PIECES; at++) {
        if (at < 200 && at % 50 == 7) {
            CHECK(pthread_create(&elsewhere, NULL, send_piece, NULL) == 0);
            CHECK(pthread_join(elsewhere, NULL) == 0);
        } else {
            send_piece(NULL);
        }
    }
    CHECK(pthread_create(&elsewhere, NULL, read_all, NULL) == 0);
    netlib_stop_event();
}

/* Sends arrive in the order of the calls, whoever makes them, and however many before the loop
   goes on. */
static void sends_arrive_in_the_order_of_the_calls(void)
{
    uint16_t port;
    fill_many();
    listen_at(&port, on_pieces, NULL);
    peers[0] = connect_plainly(port);
    run();
    CHECK(netlib_destroy() == NETLIB_OK);
    CHECK(pthread_join(elsewhere, NULL) == 0);
}

static int may_send;
static int is_sent;

/* Sends the whole stream from another thread, and waits where it is told to. */
static void *send_all(void *unused)
{
    int refusals = 0;
    (void)unused;
    for (long sent = 0; sent < MANY;) {
        long left = MANY - sent;
        __atomic_store_n(&may_send, 0, __ATOMIC_SEQ_CST);
        int length = netlib_send(served[0], many + sent, left < 9000 ? (int)left : 9000);
        CHECK(length >= 0);
        sent += length;
        if (length < 9000 && sent < MANY) {
            refusals++;
            while (!__atomic_load_n(&may_send, __ATOMIC_SEQ_CST)) {
                usleep(100);
            }
        }
    }
    CHECK(refusals > 0);
    __atomic_store_n(&is_sent, 1, __ATOMIC_SEQ_CST);
    netlib_stop_event();
    return NULL;
}

static void *read_slowly(void *unused)
{
    (void)unused;
    /* By now the kernel's buffers are full, or the test asks for less than it could. */
    usleep(100000);
    for (long at = 0; at < MANY; at += 100000) {
        read_stream(peers[0], at, 100000);
    }
    return NULL;
}

static void on_pressed(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    uint32_t little = 65536;
    (void)data, (void)unused;
    CHECK(msg == NETLIB_MSG_CONNECT || msg == NETLIB_MSG_WRITE);
    if (msg == NETLIB_MSG_CONNECT) {
        served[0] = (net_handle_t)handle;
        CHECK(netlib_option(served[0], NETLIB_OPT_SET_SEND_BUF_SIZE, &little) == NETLIB_OK);
        CHECK(pthread_create(&elsewhere, NULL, send_all, NULL) == 0);
    } else {
        __atomic_store_n(&may_send, 1, __ATOMIC_SEQ_CST);
    }
}

/* Another thread is told that there is no room as the loop's own is; nothing is lost or closed. */
static void a_thread_feels_a_slow_peer(void)
{
    uint16_t port;
    pthread_t reader;
    fill_many();
    CHECK(netlib_ex_limit(NETLIB_EX_SEND_BYTES_MAX, 100000) == NETLIB_OK);
    listen_at(&port, on_pressed, NULL);
    peers[0] = connect_plainly(port);
    int little = 65536;
    setsockopt(peers[0], SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    CHECK(pthread_create(&reader, NULL, read_slowly, NULL) == 0);
    run();
    CHECK(is_sent);
    /* What was taken last is still on its way. */
    CHECK(netlib_destroy() == NETLIB_OK);
    CHECK(pthread_join(reader, NULL) == 0 && pthread_join(elsewhere, NULL) == 0);
}

static net_handle_t client;

static void *send_at_once(void *failure)
{
    CHECK_FAILS(netlib_send(client, "x", 1), *(int *)failure);
    return NULL;
}

/* What another thread is answered, which looks at the handle as the loop's own does. */
static void check_elsewhere(int failure)
{
    CHECK(pthread_create(&elsewhere, NULL, send_at_once, &failure) == 0);
    CHECK(pthread_join(elsewhere, NULL) == 0);
}

static void on_watched(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    note("", name_of(msg));
    if (msg == NETLIB_MSG_CONNECT) {
        CHECK(netlib_send((net_handle_t)handle, "bye", 3) == 3);
        CHECK(netlib_close((net_handle_t)handle) == NETLIB_OK);
    }
    if (msg == NETLIB_MSG_READ) {
        CHECK(drain((net_handle_t)handle) == 3);
    }
    if (msg == NETLIB_MSG_CLOSE) {
        check_elsewhere(EPIPE);
        netlib_stop_event();
    }
}

/* A handle that does not carry bytes takes none, from any thread. */
static void a_thread_is_told_the_standing(void)
{
    uint16_t port;
    client = 1 << 20;
    check_elsewhere(EBADF);
    client = listen_at(&port, on_watched, NULL);
    check_elsewhere(ENOTCONN);
    client = netlib_connect("127.0.0.1", port, on_watched, NULL);
    check_elsewhere(ENOTCONN);
    run();
    check_elsewhere(EBADF);
}

static void *send_much(void *unused)
{
    (void)unused;
    taken = netlib_send(served[0], many, MANY);
    CHECK(taken == 65536);
    return NULL;
}

static void on_signal(int number)
{
    (void)number;
    int sent = netlib_send(served[0], many + taken, MANY);
    CHECK(sent == 65536);
    taken += sent;
}

static void on_much(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONNECT) {
        served[served_count++] = (net_handle_t)handle;
        if (served_count == 2) {
            CHECK(pthread_create(&elsewhere, NULL, send_much, NULL) == 0);
            CHECK(pthread_join(elsewhere, NULL) == 0);
            signal(SIGALRM, on_signal);
            raise(SIGALRM);
        }
        return;
    }
    note(served[0] == (net_handle_t)handle ? "first:" : "other:", name_of(msg));
    /* A turn later, so that nobody is told too late. */
    netlib_register_timer(on_much, NULL, 1);
    if (msg == NETLIB_MSG_TIMER) {
        netlib_stop_event();
    }
}

/* Who sends more than 64 KiB at once from elsewhere is taken so much of, and is told alone. */
static void a_long_send_takes_what_fits(void)
{
    uint16_t port;
    fill_many();
    listen_at(&port, on_much, NULL);
    peers[0] = connect_plainly(port);
    peers[1] = connect_plainly(port);
    run();
    CHECK(strncmp(told, "first:WRITE other:TIMER", 23) == 0);
    read_stream(peers[0], 0, 131072);
}

static void on_kept(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    CHECK(msg == NETLIB_MSG_CONNECT);
    served[0] = (net_handle_t)handle;
    CHECK(pthread_create(&elsewhere, NULL, send_much, NULL) == 0);
    CHECK(pthread_join(elsewhere, NULL) == 0);
    CHECK(netlib_close(served[0]) == NETLIB_OK);
    check_elsewhere(EBADF);
    netlib_stop_event();
}

/* What another thread has sent before a close arrives, all of it. */
static void a_close_flushes_what_a_thread_has_sent(void)
{
    uint16_t port;
    char byte;
    fill_many();
    listen_at(&port, on_kept, NULL);
    peers[0] = connect_plainly(port);
    run();
    CHECK(netlib_destroy() == NETLIB_OK);
    read_stream(peers[0], 0, 65536);
    CHECK(read(peers[0], &byte, 1) == 0);
}

enum { SENDERS = 3, CLOSES = 500 };
static int is_over;
static int closes;
static pthread_t senders[SENDERS];

/* Sends without a pause, most of it in vain. */
static void *send_on_and_on(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&is_over, __ATOMIC_SEQ_CST)) {
        CHECK(netlib_send(served[0], many, 100) >= 0);
    }
    return NULL;
}

static void on_besieged(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONNECT) {
        served[0] = (net_handle_t)handle;
        for (int at = 0; at < SENDERS; at++) {
            CHECK(pthread_create(&senders[at], NULL, send_on_and_on, NULL) == 0);
        }
        netlib_register_timer(on_besieged, NULL, 0);
    }
    if (msg == NETLIB_MSG_TIMER) {
        uint16_t port;
        CHECK(netlib_close(listen_at(&port, ignore, NULL)) == NETLIB_OK);
        if (++closes == CLOSES) {
            __atomic_store_n(&is_over, 1, __ATOMIC_SEQ_CST);
            netlib_stop_event();
        }
    }
}

/* A close waits for those who send to that connection, and not for whoever sends to others. */
static void a_close_does_not_wait_for_others(void)
{
    uint16_t port;
    alarm(5);
    listen_at(&port, on_besieged, NULL);
    peers[0] = connect_plainly(port);
    run();
    for (int at = 0; at < SENDERS; at++) {
        CHECK(pthread_join(senders[at], NULL) == 0);
    }
    close(peers[0]);
}

static const struct scenario scenarios[] = {
    SCENARIO(the_total_limit_refuses_and_write_follows),
    SCENARIO(a_thread_feels_a_slow_peer),
    SCENARIO(a_thread_feels_what_is_unread),
    SCENARIO(a_thread_feels_what_a_callback_has_sent),
    SCENARIO(a_callback_sees_what_the_one_before_has_sent),
    SCENARIO(sends_arrive_in_the_order_of_the_calls),
    SCENARIO(a_thread_is_told_the_standing),
    SCENARIO(a_long_send_takes_what_fits),
    SCENARIO(a_close_flushes_what_a_thread_has_sent),
    SCENARIO(a_close_does_not_wait_for_others),
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
