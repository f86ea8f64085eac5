/*
 * netlib: a callback-style network runtime on io_uring, or on epoll where io_uring is missing.
 *
 * One loop, one thread. The library belongs to the thread that calls netlib_init, or the first of
 * the other functions, until a thread calls netlib_eventloop: from then on to that one, until
 * netlib_destroy, or until it ends. From other threads and from signal handlers only what is said
 * below may be called. Everything may be called from inside of every callback, except
 * netlib_destroy; no function calls a callback by itself: the loop does.
 *
 * A function that fails says why through errno:
 *   EBADF   the handle is not open (any more)
 *   EINVAL  a null pointer, a negative length, text that is not UTF-8, an unknown limit
 *   EFAULT  no memory for the bytes of a send or recv
 *   EPERM   the library belongs to another thread
 *   EBUSY   a signal handler, or a callback, called what it may not
 *   others  as the kernel has them
 */
#ifndef NETLIB_H
#define NETLIB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#include <string>
#define NETLIB_DEFAULT(value) = value
extern "C" {
#else
#include <stdbool.h>
#define NETLIB_DEFAULT(value)
#endif

/* What functions return. */
#define NETLIB_OK 0
#define NETLIB_ERROR (-1)
#define NETLIB_INVALID_HANDLE (-1)

/* What a callback is told. */
#define NETLIB_MSG_CONNECT 1 /* a client was accepted; the handle is the new connection */
#define NETLIB_MSG_CONFIRM 2 /* netlib_connect has succeeded */
#define NETLIB_MSG_READ 3    /* bytes have arrived: netlib_recv until it gives 0 or less */
#define NETLIB_MSG_WRITE 4   /* there is room again after netlib_send took less than all */
#define NETLIB_MSG_CLOSE 5   /* it is over, or netlib_connect has failed; the last message */
#define NETLIB_MSG_TIMER 6   /* a timer is due; the handle is 0 */
#define NETLIB_MSG_LOOP 7    /* a turn of the loop is over; the handle is 0 */

/* What netlib_option reads and sets, and what its pointer is. */
#define NETLIB_OPT_SET_CALLBACK 1      /* the callback itself */
#define NETLIB_OPT_SET_CALLBACK_DATA 2 /* the data itself: a pointer or a number */
#define NETLIB_OPT_GET_REMOTE_IP 3     /* std::string *; in C see netlib_ex_remote_ip */
#define NETLIB_OPT_GET_REMOTE_PORT 4   /* uint16_t * */
#define NETLIB_OPT_GET_LOCAL_IP 5      /* std::string *; in C see netlib_ex_local_ip */
#define NETLIB_OPT_GET_LOCAL_PORT 6    /* uint16_t * */
#define NETLIB_OPT_SET_SEND_BUF_SIZE 7 /* uint32_t *, bytes */
#define NETLIB_OPT_SET_RECV_BUF_SIZE 8 /* uint32_t *, bytes */

/*
 * The std::string that is written is that of libstdc++ since GCC 5. Where the program has another
 * one, it may not ask for it, and is told so where it does.
 */
#if defined(__cplusplus) && (!defined(_GLIBCXX_USE_CXX11_ABI) || !_GLIBCXX_USE_CXX11_ABI)
#undef NETLIB_OPT_GET_REMOTE_IP
#undef NETLIB_OPT_GET_LOCAL_IP
#define NETLIB_OPT_GET_REMOTE_IP not_with_this_std_string_use_netlib_ex_remote_ip
#define NETLIB_OPT_GET_LOCAL_IP not_with_this_std_string_use_netlib_ex_local_ip
#endif

/*
 * Names a socket: a positive number, never a descriptor. While the socket is open no other has
 * it. It comes back after two million further sockets at the earliest, or after netlib_destroy;
 * only where nearly 1048576 are open at once it may be after two thousand.
 */
typedef int net_handle_t;

/*
 * Called by the loop with the data it was registered with. pParam is null. An exception that
 * leaves it ends the process with a message; longjmp out of it is not possible. It may end the
 * process by exit, but what it and those before it in this turn of the loop have sent is lost:
 * the loop sends at the end of the turn.
 */
typedef void (*callback_t)(void *callback_data, uint8_t msg, uint32_t handle, void *pParam);

/* Starts the library. 0, or -1 where neither io_uring nor epoll can be had. */
int netlib_init(void);

/*
 * Ends the library: closes every socket, tells nobody, and waits up to two seconds for the kernel
 * to take what was sent. 0, or -1 with EBUSY inside of a callback.
 */
int netlib_destroy(void);

/*
 * Listens at an address. Clients are told to `callback` as NETLIB_MSG_CONNECT, and have it and
 * `callback_data` until they get their own by netlib_option. 0, or -1.
 */
int netlib_listen(const char *server_ip, uint16_t port, callback_t callback, void *callback_data);

/*
 * Connects to an address or a host name. NETLIB_MSG_CONFIRM or NETLIB_MSG_CLOSE tells how it
 * went, also where it fails at once. -1 for a null pointer, a host that is not UTF-8, without room
 * for a handle, and where the library cannot be started or belongs to another thread.
 */
net_handle_t netlib_connect(const char *server_ip, uint16_t port, callback_t callback,
                            void *callback_data);

/*
 * Sends. How many bytes were taken: all of them, or as many as there was room for below the limits
 * of pending bytes (NETLIB_EX_SEND_BYTES_MAX and NETLIB_EX_BUFFERED_BYTES_MAX). Less than all, 0
 * included, means that NETLIB_MSG_WRITE will come; errno is EAGAIN for 0. -1 with ENOTCONN before
 * NETLIB_MSG_CONFIRM, with EPIPE once the connection is over. What was taken leaves in the order
 * of the calls.
 *
 * Signal handlers and other threads may call this, and are answered the same. At once they are
 * taken 64 KiB at most, and the loop sends it soon. 256 KiB wait for it, of all of them, and 64 KiB
 * besides of a callback and the handlers that interrupt it: beyond that there is no room, and
 * NETLIB_MSG_WRITE comes when there is.
 */
int netlib_send(net_handle_t handle, const void *buf, int len);

/*
 * Copies out what has arrived. How many bytes; 0, with errno 0, at the end of the stream; -1 with
 * EAGAIN when there are no more for now.
 */
int netlib_recv(net_handle_t handle, void *buf, int len);

/*
 * Closes. What was sent is flushed before, in the background. No message comes any more, not
 * even one that has happened already. 0, or -1.
 */
int netlib_close(net_handle_t handle);

/*
 * Reads or sets an option, see NETLIB_OPT_*. 0, or -1. Options that are not known are ignored,
 * whatever the pointer is.
 */
int netlib_option(net_handle_t handle, int opt, void *optval);

/*
 * Calls back every `interval` ms, first after one; 0 is once a turn of the loop. Timers are known
 * by callback and data: registering again changes the interval and starts it anew. 0, or -1.
 *
 * Signal handlers and other threads may call this and netlib_delete_timer, also before the library
 * is started: the loop does it soon. -1 with ENOBUFS when thousands of such calls wait already.
 */
int netlib_register_timer(callback_t callback, void *user_data, uint64_t interval);

/* Deletes a timer, in its own callback or any other. 0 also where there is none. */
int netlib_delete_timer(callback_t callback, void *user_data);

/* Calls back at the end of each turn of the loop. Added twice, it is called twice. 0, or -1. */
int netlib_add_loop(callback_t callback, void *user_data);

/*
 * Runs the loop until netlib_stop_event. A turn waits `wait_timeout` ms at most, so loop callbacks
 * come at least that often; 0xFFFFFFFF waits for events alone. Returns at once where the loop is
 * running already, and where it cannot run, which errno tells, and standard error once: EPERM
 * where another thread has run it before. The thread cannot be cancelled until the loop returns.
 */
void netlib_eventloop(uint32_t wait_timeout NETLIB_DEFAULT(100));

/* Lets the loop return after the turn in hand. Signal handlers and other threads may call it. */
void netlib_stop_event(void);

/* Whether the loop is running. Signal handlers and other threads may ask. */
bool netlib_is_running(void);

/* ---- What the original lacks ------------------------------------------------------------- */

/*
 * Chooses "auto" (the default: io_uring, or epoll where it is missing), "uring" or "epoll". The
 * environment variable NETLIB_BACKEND overrules "auto". 0, or -1; EBUSY once the library is
 * started.
 */
int netlib_ex_backend(const char *name);

/* Limits, with their defaults. */
#define NETLIB_EX_SOCKETS_MAX 1        /* 1048576, which is also the most */
#define NETLIB_EX_SEND_BYTES_MAX 2     /* pending bytes of a connection: 1 MiB */
#define NETLIB_EX_RECV_BYTES_MAX 3     /* bytes that wait for netlib_recv: 64 KiB */
#define NETLIB_EX_BUFFERED_BYTES_MAX 4 /* both, of all connections: 1 GiB; 2 MiB at least */
#define NETLIB_EX_CONNECT_TIMEOUT_MS 5 /* 10000 */
#define NETLIB_EX_CLOSE_TIMEOUT_MS 6   /* to flush after netlib_close: 10000 */
#define NETLIB_EX_WRITE_STALL_MS 7     /* a peer takes nothing for so long: 10000, 0 for never */

/* Sets a limit. 0, or -1: EINVAL out of its bounds, EBUSY once the library is started. */
int netlib_ex_limit(int limit, uint64_t value);

/* As netlib_listen, but gives a handle, for netlib_close and NETLIB_OPT_GET_LOCAL_PORT; or -1. */
net_handle_t netlib_ex_listen(const char *server_ip, uint16_t port, callback_t callback,
                              void *callback_data);

/*
 * The peer's address, and the own one, as text with a zero byte, cut to `size`; 46 bytes hold
 * every numeric one. The length of the whole text, or -1.
 */
int netlib_ex_remote_ip(net_handle_t handle, char *text, size_t size);
int netlib_ex_local_ip(net_handle_t handle, char *text, size_t size);

/*
 * The backend ("backend=uring ..." is the first line) and what was counted (name=number), cut to
 * `size`; 1024 bytes hold it. The length of the whole text, or -1.
 */
int netlib_ex_stats(char *text, size_t size);

/* Ends the loop's wait, so that loop callbacks come now. Any thread, any signal handler. */
void netlib_ex_wake(void);

#ifdef __cplusplus
}
#endif
#undef NETLIB_DEFAULT

#endif
