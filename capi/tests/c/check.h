/*
 * What the test programs share: conditions that must hold, a log of what callbacks were told, and
 * a server with a client that both live in the one loop.
 */
#ifndef CHECK_H
#define CHECK_H

#include <netlib.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold; errno %d; log \"%s\"\n", __FILE__, __LINE__, \
                    #condition, errno, told);                                                      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* The call fails, and for this reason. */
#define CHECK_FAILS(call, reason)  \
    do {                           \
        errno = 0;                 \
        CHECK((call) == -1);       \
        CHECK(errno == (reason));  \
    } while (0)

/* What callbacks were told, a word for each. */
static char told[4096];

static inline void note(const char *who, const char *what)
{
    size_t length = strlen(told);
    snprintf(told + length, sizeof told - length, "%s%s%s", length > 0 ? " " : "", who, what);
}

static inline const char *name_of(uint8_t msg)
{
    static const char *const names[] = {"?",      "CONNECT", "CONFIRM", "READ",
                                        "WRITE",  "CLOSE",   "TIMER",   "LOOP"};
    return msg < sizeof names / sizeof *names ? names[msg] : "?";
}

/* Ends the loop of a test that hangs, long after it should have ended. */
static inline void on_too_late(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)msg, (void)handle, (void)unused;
    fprintf(stderr, "nothing more happens; log \"%s\"\n", told);
    exit(1);
}

/* Runs the loop until somebody stops it. Nothing but events ends its waits. */
static inline void run(void)
{
    netlib_register_timer(on_too_late, told, 20000);
    netlib_eventloop(UINT32_MAX);
    netlib_delete_timer(on_too_late, told);
}

/* A listener at a free port, which it tells. */
static inline net_handle_t listen_at(uint16_t *port, callback_t callback, void *data)
{
    net_handle_t listener = netlib_ex_listen("127.0.0.1", 0, callback, data);
    CHECK(listener > 0);
    CHECK(netlib_option(listener, NETLIB_OPT_GET_LOCAL_PORT, port) == NETLIB_OK);
    CHECK(*port != 0);
    return listener;
}

/* A peer outside of the library, with plain blocking calls. */
static inline int connect_plainly(uint16_t port)
{
    struct sockaddr_in address = {0};
    int peer = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(peer >= 0);
    CHECK(connect(peer, (struct sockaddr *)&address, sizeof address) == 0);
    return peer;
}

static inline void ignore(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data, (void)msg, (void)handle, (void)unused;
}

/* Takes all bytes that are there, and drops them; how many. */
static inline int drain(net_handle_t handle)
{
    char bytes[4096];
    int all = 0;
    for (;;) {
        int received = netlib_recv(handle, bytes, sizeof bytes);
        if (received <= 0) {
            return all;
        }
        all += received;
    }
}

struct scenario {
    const char *name;
    void (*run)(void);
};

#define SCENARIO(function) {#function, function}

/* Runs the scenario that the first argument names. */
static inline int run_scenario(const struct scenario *scenarios, size_t count, int argc,
                               char **argv)
{
    for (size_t at = 0; argc > 1 && at < count; at++) {
        if (strcmp(scenarios[at].name, argv[1]) == 0) {
            scenarios[at].run();
            CHECK(netlib_destroy() == NETLIB_OK);
            return 0;
        }
    }
    fprintf(stderr, "no such scenario\n");
    return 2;
}

#endif
