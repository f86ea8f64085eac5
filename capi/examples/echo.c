/*
 * An echo server in plain C: every byte comes back.
 *
 *     cc -I capi/include capi/examples/echo.c target/release/libnetlib.a -lpthread -ldl -lm \
 *         -o echo
 *     ./echo 7000
 *
 * Runs until SIGTERM or SIGINT. A client that does not read its answers is not read from either:
 * what netlib_send does not take is kept, and nothing more is received until it is gone.
 */
#include <netlib.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client {
    struct client *previous;
    struct client *next;
    net_handle_t handle;
    /* What was received and not sent yet. */
    int start;
    int end;
    char bytes[16384];
};

/* A ring of which this one is no client. */
static struct client clients = {&clients, &clients, NETLIB_INVALID_HANDLE, 0, 0, {0}};

static void drop(struct client *client)
{
    client->previous->next = client->next;
    client->next->previous = client->previous;
    free(client);
}

/* Sends what waits and receives more, until either comes to its end for now. */
static void echo(struct client *client)
{
    for (;;) {
        while (client->start < client->end) {
            const char *bytes = client->bytes + client->start;
            int sent = netlib_send(client->handle, bytes, client->end - client->start);
            if (sent <= 0) {
                return; /* NETLIB_MSG_WRITE or NETLIB_MSG_CLOSE follows. */
            }
            client->start += sent;
        }
        int received = netlib_recv(client->handle, client->bytes, sizeof client->bytes);
        if (received <= 0) {
            return; /* NETLIB_MSG_READ or NETLIB_MSG_CLOSE follows. */
        }
        client->start = 0;
        client->end = received;
    }
}

static void on_client(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    struct client *client = data;
    (void)unused;
    switch (msg) {
    case NETLIB_MSG_READ:
    case NETLIB_MSG_WRITE:
        echo(client);
        break;
    case NETLIB_MSG_CLOSE:
        netlib_close((net_handle_t)handle);
        drop(client);
        break;
    default:
        break;
    }
}

static void on_listener(void *data, uint8_t msg, uint32_t handle, void *unused)
{
    (void)data;
    (void)unused;
    if (msg != NETLIB_MSG_CONNECT) {
        return;
    }
    struct client *client = malloc(sizeof *client);
    if (client == NULL) {
        netlib_close((net_handle_t)handle);
        return;
    }
    client->previous = &clients;
    client->next = clients.next;
    client->next->previous = client;
    clients.next = client;
    client->handle = (net_handle_t)handle;
    client->start = 0;
    client->end = 0;
    netlib_option(client->handle, NETLIB_OPT_SET_CALLBACK, (void *)(uintptr_t)on_client);
    netlib_option(client->handle, NETLIB_OPT_SET_CALLBACK_DATA, client);
}

static void on_signal(int number)
{
    (void)number;
    netlib_stop_event();
}

int main(int count, char **arguments)
{
    uint16_t port = (uint16_t)(count > 1 ? atoi(arguments[1]) : 7000);
    char stats[1024];

    if (netlib_init() != NETLIB_OK) {
        return 1;
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    net_handle_t listener = netlib_ex_listen("127.0.0.1", port, on_listener, NULL);
    if (listener == NETLIB_INVALID_HANDLE) {
        perror("netlib_ex_listen");
        return 1;
    }
    netlib_option(listener, NETLIB_OPT_GET_LOCAL_PORT, &port);
    printf("listening on 127.0.0.1:%u\n", port);
    fflush(stdout);

    netlib_eventloop(100);

    netlib_ex_stats(stats, sizeof stats);
    fputs(stats, stdout);
    netlib_destroy();
    while (clients.next != &clients) {
        drop(clients.next);
    }
    return 0;
}
