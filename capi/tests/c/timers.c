/* Timers, loop callbacks, the loop itself, and everything from inside of every callback. */
#include "check.h"

static int count;

static void on_other(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)unused;
    CHECK(handle == 0);
    note(data, name_of(msg));
}

static void on_beat(void *data, uint8_t msg, uint32_t handle, void *parameter)
{
    CHECK(data == &count && msg == NETLIB_MSG_TIMER && handle == 0 && parameter == NULL);
    if (++count == 3) {
        CHECK(netlib_delete_timer(on_beat, data) == NETLIB_OK);
        netlib_stop_event();
    }
}

/* A timer comes again and again until it is deleted, which it may do itself. */
static void a_timer_beats_until_it_is_deleted(void)
{
    CHECK(netlib_register_timer(on_beat, &count, 5) == NETLIB_OK);
    run();
    CHECK(count == 3);
    CHECK(netlib_delete_timer(on_beat, &count) == NETLIB_OK);
}

static void on_end(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)msg, (void)handle, (void)unused;
    netlib_stop_event();
}

/* The same callback and data are the same timer; other data are another one. */
static void registering_again_updates(void)
{
    netlib_register_timer(on_other, "never:", 10);
    netlib_register_timer(on_other, "soon:", 60000);
    netlib_register_timer(on_other, "soon:", 30);
    netlib_register_timer(on_other, "never:", 60000);
    netlib_register_timer(on_end, NULL, 45);
    run();
    /* A machine that is busy may come to it twice. */
    CHECK(strncmp(told, "soon:TIMER", 10) == 0 && strstr(told, "never:") == NULL);
}

static void on_deleting(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)msg, (void)handle, (void)unused;
    netlib_delete_timer(on_other, "next:");
    netlib_delete_timer(on_deleting, data);
    /* Nothing of those that are gone is left for this one. */
    netlib_register_timer(on_other, "later:", 60000);
    netlib_register_timer(on_other, "latest:", 60000);
    netlib_register_timer(on_end, NULL, 30);
}

/* A callback may delete any timer, also one that is due in the same turn. */
static void a_callback_deletes_another_timer(void)
{
    netlib_register_timer(on_deleting, NULL, 10);
    netlib_register_timer(on_other, "next:", 10);
    run();
    CHECK(told[0] == 0);
}

static void on_turn(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)handle, (void)unused;
    note(data, name_of(msg));
    if (++count == 8) {
        netlib_stop_event();
    }
}

/* An interval of 0 is once a turn, before the loop callbacks; those come as often as added. */
static void turns_are_told_in_order(void)
{
    netlib_register_timer(on_turn, "t:", 0);
    netlib_add_loop(on_turn, "a:");
    netlib_add_loop(on_turn, "b:");
    netlib_add_loop(on_turn, "a:");
    netlib_eventloop(0);
    CHECK(strcmp(told, "t:TIMER a:LOOP b:LOOP a:LOOP t:TIMER a:LOOP b:LOOP a:LOOP") == 0);
    netlib_register_timer(on_turn, "t:", 60000);
    told[0] = 0;
    count = 5;
    netlib_eventloop(0);
    CHECK(strcmp(told, "a:LOOP b:LOOP a:LOOP") == 0);
}

static void on_nested(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)msg, (void)handle, (void)unused;
    CHECK(netlib_is_running());
    netlib_stop_event();
    errno = 0;
    netlib_eventloop(0);
    CHECK(errno == EBUSY);
    CHECK(netlib_is_running());
    CHECK_FAILS(netlib_destroy(), EBUSY);
    count++;
}

/* The loop runs once at a time, again after a stop, and a stop without a loop is lost. */
static void the_loop_stops_and_starts_again(void)
{
    CHECK(netlib_init() == NETLIB_OK && netlib_init() == NETLIB_OK);
    CHECK(!netlib_is_running());
    netlib_register_timer(on_nested, NULL, 1);
    netlib_stop_event();
    run();
    CHECK(!netlib_is_running() && count == 1);
    run();
    CHECK(count == 2);
}

/* The library starts anew after its end, and remembers nothing. */
static void the_library_starts_again(void)
{
    uint16_t port;
    net_handle_t first = listen_at(&port, on_end, NULL);
    netlib_register_timer(on_other, "old:", 1);
    CHECK(netlib_destroy() == NETLIB_OK);
    CHECK(netlib_destroy() == NETLIB_OK);
    netlib_ex_wake();
    netlib_stop_event();
    CHECK_FAILS(netlib_close(first), EBADF);
    CHECK(netlib_ex_backend("epoll") == NETLIB_OK);
    CHECK(netlib_listen("127.0.0.1", port, on_end, NULL) == NETLIB_OK);
    netlib_register_timer(on_end, NULL, 20);
    run();
    CHECK(told[0] == 0);
}

static uint16_t busy_port;
static net_handle_t victims[8];
static int seen[8];

/* Calls everything, whatever it was told, and closes a connection of somebody else's. */
static void on_everything(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    char bytes[4096];
    net_handle_t own = (net_handle_t)handle;
    uint32_t size = 65536;
    (void)unused;
    seen[msg]++;
    if (msg == NETLIB_MSG_READ) {
        while (netlib_recv(own, bytes, sizeof bytes) > 0) {
        }
    }
    netlib_send(own, "hello", 5);
    netlib_option(own, NETLIB_OPT_SET_CALLBACK, (void *)on_everything);
    netlib_option(own, NETLIB_OPT_SET_CALLBACK_DATA, data);
    netlib_option(own, NETLIB_OPT_SET_RECV_BUF_SIZE, &size);
    netlib_register_timer(on_other, "later:", 60000);
    netlib_register_timer(on_other, "gone:", 0);
    netlib_delete_timer(on_other, "gone:");
    netlib_eventloop(0);
    netlib_ex_wake();
    netlib_ex_stats(bytes, sizeof bytes);
    if (count < 200) {
        net_handle_t *victim = &victims[count % 8];
        netlib_close(*victim);
        *victim = netlib_connect("127.0.0.1", busy_port, on_everything, victims);
        CHECK(*victim > 0);
        netlib_close(netlib_ex_listen("127.0.0.1", 0, on_everything, NULL));
    }
    if (count % 5 == 0) {
        netlib_close(own);
    }
    if (++count > 400 && seen[NETLIB_MSG_CLOSE] > 0) {
        netlib_stop_event();
    }
}

/* Every function but destroy may be called in every callback. */
static void everything_is_allowed_in_every_callback(void)
{
    listen_at(&busy_port, on_everything, victims);
    netlib_register_timer(on_everything, victims, 1);
    netlib_add_loop(on_everything, victims);
    victims[0] = netlib_connect("127.0.0.1", busy_port, on_everything, victims);
    run();
    CHECK(seen[NETLIB_MSG_CONNECT] > 0 && seen[NETLIB_MSG_CONFIRM] > 0);
    CHECK(seen[NETLIB_MSG_READ] > 0 && seen[NETLIB_MSG_CLOSE] > 0);
    CHECK(seen[NETLIB_MSG_TIMER] > 0 && seen[NETLIB_MSG_LOOP] > 0);
    CHECK(told[0] == 0);
}

static const struct scenario scenarios[] = {
    SCENARIO(a_timer_beats_until_it_is_deleted),
    SCENARIO(registering_again_updates),
    SCENARIO(a_callback_deletes_another_timer),
    SCENARIO(turns_are_told_in_order),
    SCENARIO(the_loop_stops_and_starts_again),
    SCENARIO(the_library_starts_again),
    SCENARIO(everything_is_allowed_in_every_callback),
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
