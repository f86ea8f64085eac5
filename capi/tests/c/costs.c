/* What a message costs. */
#include "check.h"
#include "counting.h"

enum { WARM_UP = 200, COUNTED = 2000 };

static char message[100];
static int answers;

static void on_server(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    char bytes[4096];
    int length;
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_READ) {
        while ((length = netlib_recv((net_handle_t)handle, bytes, sizeof bytes)) > 0) {
            CHECK(netlib_send((net_handle_t)handle, bytes, length) == length);
        }
    }
}

static void on_client(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    net_handle_t own = (net_handle_t)handle;
    (void)data, (void)unused;
    if (msg == NETLIB_MSG_READ && drain(own) == (int)sizeof message) {
        answers++;
    }
    if (answers == WARM_UP) {
        is_counting = 1;
    }
    if (answers == WARM_UP + COUNTED) {
        is_counting = 0;
        netlib_stop_event();
        return;
    }
    CHECK(netlib_send(own, message, sizeof message) == (int)sizeof message);
}

/* A message and its answer allocate nothing, on either side. */
static void an_echo_allocates_nothing(void)
{
    uint16_t port;
    listen_at(&port, on_server, NULL);
    netlib_connect("127.0.0.1", port, on_client, NULL);
    run();
    CHECK(answers == WARM_UP + COUNTED);
    CHECK(allocations == 0);
}

static const struct scenario scenarios[] = {
    SCENARIO(an_echo_allocates_nothing),
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
