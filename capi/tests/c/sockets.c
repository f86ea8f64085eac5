/* Sockets: what is told in which order, and what send, recv and close promise. */
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

static net_handle_t client = NETLIB_INVALID_HANDLE;
static net_handle_t served = NETLIB_INVALID_HANDLE;
static int received;

/* Notes everything, drains, and stops at the end of either side. */
static void on_noted(void *data, uint8_t msg, uint32_t handle, void *parameter)
{
    CHECK(parameter == NULL);
    CHECK((net_handle_t)handle > 0);
    note(data, name_of(msg));
    if (msg == NETLIB_MSG_CONNECT) {
        served = (net_handle_t)handle;
    }
    if (msg == NETLIB_MSG_READ) {
        received += drain((net_handle_t)handle);
    }
    if (msg == NETLIB_MSG_CLOSE) {
        netlib_close((net_handle_t)handle);
        netlib_stop_event();
    }
}

static void on_greeting(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)unused;
    note(data, name_of(msg));
    if (msg == NETLIB_MSG_CONFIRM) {
        CHECK(netlib_send((net_handle_t)handle, "hello", 5) == 5);
        CHECK(netlib_close((net_handle_t)handle) == NETLIB_OK);
    }
}

/* Each message once, none that nothing has happened for, and none after the own close. */
static void messages_come_once_and_in_order(void)
{
    uint16_t port;
    listen_at(&port, on_noted, "s:");
    client = netlib_connect("127.0.0.1", port, on_greeting, "c:");
    CHECK(client > 0);
    run();
    /* The two ends have no order between them before the first byte. */
    CHECK(strcmp(told, "c:CONFIRM s:CONNECT s:READ s:CLOSE") == 0 ||
          strcmp(told, "s:CONNECT c:CONFIRM s:READ s:CLOSE") == 0);
    CHECK(received == 5);
    CHECK_FAILS(netlib_close(client), EBADF);
    CHECK_FAILS(netlib_close(served), EBADF);
}

enum { MANY = 900000 };
static char many[MANY];

static void on_sender(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONNECT) {
        for (int at = 0; at < MANY; at++) {
            many[at] = (char)(at % 251);
        }
        CHECK(netlib_send((net_handle_t)handle, many, MANY) == MANY);
        CHECK(netlib_close((net_handle_t)handle) == NETLIB_OK);
    }
}

static void on_taker(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_READ) {
        char bytes[5000];
        int length;
        while ((length = netlib_recv((net_handle_t)handle, bytes, sizeof bytes)) > 0) {
            for (int at = 0; at < length; at++) {
                CHECK(bytes[at] == (char)((received + at) % 251));
            }
            received += length;
        }
        CHECK(length == 0 || errno == EAGAIN);
    }
    if (msg == NETLIB_MSG_CLOSE) {
        netlib_stop_event();
    }
}

/* What was sent before a close arrives, all of it. */
static void close_right_after_send_flushes(void)
{
    uint16_t port;
    listen_at(&port, on_sender, NULL);
    netlib_connect("127.0.0.1", port, on_taker, NULL);
    run();
    CHECK(received == MANY);
}

static void on_ends(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    net_handle_t own = (net_handle_t)handle;
    char bytes[16];
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONNECT) {
        CHECK_FAILS(netlib_recv(own, bytes, sizeof bytes), EAGAIN);
    }
    if (msg == NETLIB_MSG_READ) {
        CHECK(netlib_recv(own, bytes, 0) == 0);
        CHECK(netlib_recv(own, bytes, 3) == 3);
        CHECK(netlib_recv(own, bytes, sizeof bytes) == 2);
        int end = netlib_recv(own, bytes, sizeof bytes);
        CHECK(end == -1 ? errno == EAGAIN : end == 0 && errno == 0);
    }
    if (msg == NETLIB_MSG_CLOSE) {
        errno = 7;
        CHECK(netlib_recv(own, bytes, sizeof bytes) == 0);
        CHECK(errno == 0);
        CHECK_FAILS(netlib_send(own, "x", 1), EPIPE);
        CHECK(netlib_close(own) == NETLIB_OK);
        CHECK_FAILS(netlib_recv(own, bytes, sizeof bytes), EBADF);
        netlib_stop_event();
    }
}

/* recv tells nothing for now from nothing ever again. */
static void recv_tells_would_block_from_the_end(void)
{
    uint16_t port;
    listen_at(&port, on_ends, NULL);
    int peer = connect_plainly(port);
    CHECK(write(peer, "hello", 5) == 5);
    close(peer);
    run();
}

static void on_late(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    char bytes[16];
    (void)data, (void)handle, (void)unused;
    CHECK(msg == NETLIB_MSG_TIMER);
    netlib_delete_timer(on_late, data);
    CHECK(netlib_recv(served, bytes, sizeof bytes) == 5);
    errno = 7;
    CHECK(netlib_recv(served, bytes, sizeof bytes) == 0 && errno == 0);
}

static void on_lazy(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    served = (net_handle_t)handle;
    if (msg == NETLIB_MSG_CLOSE) {
        netlib_stop_event();
    }
}

/* Who takes the last byte late learns at once that it was the last. */
static void recv_knows_the_end_after_the_last_byte(void)
{
    uint16_t port;
    listen_at(&port, on_lazy, NULL);
    int peer = connect_plainly(port);
    CHECK(write(peer, "hello", 5) == 5);
    close(peer);
    netlib_register_timer(on_late, NULL, 300);
    run();
}

static int peer_of_full;

static void on_full(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    static long taken;
    static int is_refused;
    net_handle_t own = (net_handle_t)handle;
    (void)data, (void)unused;
    note("", name_of(msg));
    if (msg == NETLIB_MSG_CONNECT) {
        int sent;
        served = own;
        /* The kernel takes nothing before the loop goes on, so this is the limit itself. */
        while ((sent = netlib_send(own, many, 9000)) == 9000) {
            taken += sent;
        }
        CHECK(sent > 0 && taken + sent == 100000);
        errno = 0;
        CHECK(netlib_send(own, many, 1) == 0 && errno == EAGAIN);
        is_refused = 1;
    }
    if (msg == NETLIB_MSG_WRITE) {
        CHECK(is_refused);
        is_refused = 0;
        CHECK(netlib_send(own, many, 10) == 10);
        netlib_stop_event();
    }
}

/* send takes what fits below the limit, then nothing, and WRITE comes once there is room. */
static void send_takes_what_fits_and_write_follows(void)
{
    uint16_t port;
    CHECK(netlib_ex_limit(NETLIB_EX_SEND_BYTES_MAX, 100000) == NETLIB_OK);
    listen_at(&port, on_full, NULL);
    peer_of_full = connect_plainly(port);
    run();
    CHECK(strcmp(told, "CONNECT WRITE") == 0);
    close(peer_of_full);
}

/* Bytes that come with the end are told before it. */
static void read_comes_before_close(void)
{
    uint16_t port;
    listen_at(&port, on_noted, "");
    /* All of it is there before the loop looks for the first time. */
    int peer = connect_plainly(port);
    CHECK(write(peer, "last words", 10) == 10);
    close(peer);
    run();
    CHECK(strcmp(told, "CONNECT READ CLOSE") == 0);
    CHECK(received == 10);
}

static void on_refused(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)unused;
    note(data, name_of(msg));
    if (msg == NETLIB_MSG_CLOSE) {
        char byte;
        CHECK(netlib_recv((net_handle_t)handle, &byte, 1) == -1 && errno != EAGAIN);
        CHECK(netlib_close((net_handle_t)handle) == NETLIB_OK);
        netlib_stop_event();
    }
}

/* An attempt that fails has a handle, and CLOSE alone, once: refused, without a name, at once. */
static void a_failed_connect_is_told_once(void)
{
    uint16_t port;
    netlib_close(listen_at(&port, ignore, NULL));
    const char *hosts[] = {"127.0.0.1", "no such name", "name.invalid", "unix:/nowhere", ""};
    for (size_t at = 0; at < sizeof hosts / sizeof *hosts; at++) {
        told[0] = 0;
        net_handle_t handle = netlib_connect(hosts[at], port, on_refused, "");
        CHECK(handle > 0);
        CHECK_FAILS(netlib_send(handle, "x", 1), at == 0 || at == 2 ? ENOTCONN : EPIPE);
        run();
        CHECK(strcmp(told, "CLOSE") == 0);
        CHECK_FAILS(netlib_close(handle), EBADF);
    }
    /* One that its program gives up is told nothing. */
    told[0] = 0;
    net_handle_t given_up = netlib_connect("no such name", port, on_refused, "");
    CHECK(netlib_close(given_up) == NETLIB_OK);
    netlib_connect("127.0.0.1", port, on_refused, "");
    run();
    CHECK(strcmp(told, "CLOSE") == 0);
}

static int reset_errno = -1;

static void on_reset(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    char byte;
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_READ) {
        drain((net_handle_t)handle);
    }
    if (msg == NETLIB_MSG_CLOSE) {
        served = (net_handle_t)handle;
        errno = 0;
        CHECK(netlib_recv(served, &byte, 1) == -1);
        reset_errno = errno;
        netlib_stop_event();
    }
}

/* A reset is not the end of the stream. After CLOSE the handle is gone, closed or not. */
static void a_reset_is_told_by_errno(void)
{
    uint16_t port;
    struct linger at_once = {1, 0};
    listen_at(&port, on_reset, NULL);
    int peer = connect_plainly(port);
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(peer);
    run();
    CHECK(reset_errno == ECONNRESET);
    CHECK_FAILS(netlib_close(served), EBADF);
}

static void on_replaced(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)unused;
    CHECK(data == (void *)4711);
    if (msg == NETLIB_MSG_READ) {
        drain((net_handle_t)handle);
        note("replaced:", name_of(msg));
    }
    if (msg == NETLIB_MSG_CLOSE) {
        netlib_stop_event();
    }
}

static int peer_of_option;

static void on_option(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    net_handle_t own = (net_handle_t)handle;
    uint16_t port = 0;
    uint32_t size = 131072;
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    char text[46];
    char cut[5];
    (void)unused;
    CHECK(data == told && msg == NETLIB_MSG_CONNECT);
    CHECK(getsockname(peer_of_option, (struct sockaddr *)&address, &length) == 0);
    CHECK(netlib_option(own, NETLIB_OPT_GET_REMOTE_PORT, &port) == NETLIB_OK);
    CHECK(port == ntohs(address.sin_port));
    CHECK(getpeername(peer_of_option, (struct sockaddr *)&address, &length) == 0);
    CHECK(netlib_option(own, NETLIB_OPT_GET_LOCAL_PORT, &port) == NETLIB_OK);
    CHECK(port == ntohs(address.sin_port));
    CHECK(netlib_ex_remote_ip(own, text, sizeof text) == 9 && strcmp(text, "127.0.0.1") == 0);
    CHECK(netlib_ex_local_ip(own, text, sizeof text) == 9 && strcmp(text, "127.0.0.1") == 0);
    CHECK(netlib_ex_remote_ip(own, cut, sizeof cut) == 9 && strcmp(cut, "127.") == 0);
    CHECK(netlib_ex_remote_ip(own, NULL, 0) == 9);
    CHECK(netlib_option(own, NETLIB_OPT_SET_SEND_BUF_SIZE, &size) == NETLIB_OK);
    CHECK(netlib_option(own, NETLIB_OPT_SET_RECV_BUF_SIZE, &size) == NETLIB_OK);
    CHECK(netlib_option(own, 99, &size) == NETLIB_OK);
    CHECK(netlib_option(own, 99, NULL) == NETLIB_OK);
    CHECK_FAILS(netlib_option(own, NETLIB_OPT_GET_REMOTE_PORT, NULL), EINVAL);
    CHECK_FAILS(netlib_option(own, NETLIB_OPT_SET_CALLBACK, NULL), EINVAL);
    CHECK(netlib_option(own, NETLIB_OPT_SET_CALLBACK, (void *)on_replaced) == NETLIB_OK);
    CHECK(netlib_option(own, NETLIB_OPT_SET_CALLBACK_DATA, (void *)4711) == NETLIB_OK);
    CHECK(write(peer_of_option, "x", 1) == 1);
    close(peer_of_option);
}

/* A client gets a callback and data of its own; ports and addresses are both ends' own. */
static void options_are_read_and_set(void)
{
    uint16_t port;
    listen_at(&port, on_option, told);
    peer_of_option = connect_plainly(port);
    run();
    CHECK(strcmp(told, "replaced:READ") == 0);
}

static void on_connector(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    uint16_t port = 0;
    char text[46];
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONFIRM) {
        CHECK(netlib_ex_remote_ip((net_handle_t)handle, text, sizeof text) == 9);
        CHECK(strcmp(text, "localhost") == 0);
        CHECK(netlib_option((net_handle_t)handle, NETLIB_OPT_GET_REMOTE_PORT, &port) == NETLIB_OK);
        CHECK(port == *(uint16_t *)data);
        netlib_stop_event();
    }
}

/* Who connects by a name finds that name again. */
static void a_name_stays_what_it_was(void)
{
    uint16_t port;
    CHECK(netlib_ex_listen("no such name", 0, ignore, NULL) == -1);
    net_handle_t listener = netlib_ex_listen("localhost", 0, ignore, NULL);
    CHECK(listener > 0);
    CHECK(netlib_option(listener, NETLIB_OPT_GET_LOCAL_PORT, &port) == NETLIB_OK);
    netlib_connect("localhost", port, on_connector, &port);
    run();
}

/* A listener is no handle in the original, and one in the addition; a taken port is refused. */
static void listeners_answer_and_close(void)
{
    uint16_t port;
    net_handle_t listener = listen_at(&port, ignore, NULL);
    CHECK_FAILS(netlib_listen("127.0.0.1", port, ignore, NULL), EADDRINUSE);
    CHECK_FAILS(netlib_listen("192.0.2.1", port, ignore, NULL), EADDRNOTAVAIL);
    CHECK_FAILS(netlib_send(listener, "x", 1), ENOTCONN);
    CHECK_FAILS(netlib_recv(listener, told, 1), ENOTCONN);
    CHECK(netlib_close(listener) == NETLIB_OK);
    CHECK(netlib_listen("127.0.0.1", port, ignore, NULL) == NETLIB_OK);
}

static int confirmed;

static void on_confirmed(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    static net_handle_t seen[50];
    (void)data, (void)unused;
    CHECK(msg == NETLIB_MSG_CONFIRM);
    for (int at = 0; at < confirmed; at++) {
        CHECK(seen[at] != (net_handle_t)handle);
    }
    seen[confirmed++] = (net_handle_t)handle;
    /* Descriptors are small numbers, of which these are none. */
    CHECK(fcntl((int)handle, F_GETFD) == -1 && errno == EBADF);
    if (confirmed == 50) {
        netlib_stop_event();
    }
}

/* Handles are positive, no descriptors, and each is one socket's while it is open. */
static void handles_are_unique_numbers(void)
{
    uint16_t port;
    listen_at(&port, ignore, NULL);
    for (int at = 0; at < 50; at++) {
        CHECK(netlib_connect("127.0.0.1", port, on_confirmed, NULL) > 0);
    }
    run();
}

static void on_farewell(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_CONNECT) {
        CHECK(netlib_send((net_handle_t)handle, many, 5000) == 5000);
        netlib_stop_event();
    }
}

/* What was sent before a stop leaves before the loop returns. */
static void a_stop_leaves_nothing_unsent(void)
{
    uint16_t port;
    struct timeval patience = {10, 0};
    listen_at(&port, on_farewell, NULL);
    int peer = connect_plainly(port);
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    run();
    CHECK(recv(peer, many, 5000, MSG_WAITALL) == 5000);
    close(peer);
}

static int is_destroyed;

static void stop_when_received(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)msg, (void)handle, (void)unused;
    CHECK(!is_destroyed);
    if (received > 0) {
        netlib_stop_event();
    }
}

/* And what was sent after it, before the library's end, which tells nobody. */
static void destroy_leaves_nothing_unsent(void)
{
    uint16_t port;
    listen_at(&port, on_noted, "");
    int peer = connect_plainly(port);
    CHECK(write(peer, "x", 1) == 1);
    netlib_add_loop(stop_when_received, NULL);
    netlib_register_timer(stop_when_received, NULL, 1);
    run();
    CHECK(netlib_send(served, many, 900000) == 900000);
    is_destroyed = 1;
    CHECK(netlib_destroy() == NETLIB_OK);
    CHECK(recv(peer, many, 900000, MSG_WAITALL) == 900000);
    CHECK(recv(peer, many, 1, 0) == 0);
    close(peer);
}

/* A byte out of band says nothing of the stream, and ends nothing. */
static void a_byte_out_of_band_ends_nothing(void)
{
    uint16_t port;
    listen_at(&port, on_noted, "");
    int peer = connect_plainly(port);
    CHECK(send(peer, "!", 1, MSG_OOB) == 1);
    CHECK(write(peer, "data", 4) == 4);
    close(peer);
    run();
    CHECK(strcmp(told, "CONNECT READ CLOSE") == 0 || strcmp(told, "CONNECT READ READ CLOSE") == 0);
    CHECK(received == 4);
}

static const struct scenario scenarios[] = {
    SCENARIO(messages_come_once_and_in_order),
    SCENARIO(close_right_after_send_flushes),
    SCENARIO(recv_tells_would_block_from_the_end),
    SCENARIO(recv_knows_the_end_after_the_last_byte),
    SCENARIO(send_takes_what_fits_and_write_follows),
    SCENARIO(read_comes_before_close),
    SCENARIO(a_failed_connect_is_told_once),
    SCENARIO(a_reset_is_told_by_errno),
    SCENARIO(options_are_read_and_set),
    SCENARIO(a_name_stays_what_it_was),
    SCENARIO(listeners_answer_and_close),
    SCENARIO(handles_are_unique_numbers),
    SCENARIO(a_stop_leaves_nothing_unsent),
    SCENARIO(destroy_leaves_nothing_unsent),
    SCENARIO(a_byte_out_of_band_ends_nothing),
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
