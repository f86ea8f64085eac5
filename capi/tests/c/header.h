/* What programs that exist lean on in the header: numbers, types, and nothing but the standard. */
#include <netlib.h>

#ifdef __cplusplus
#define IS(condition) static_assert(condition, #condition)
#else
#define IS(condition) _Static_assert(condition, #condition)
#endif

IS(NETLIB_OK == 0 && NETLIB_ERROR == -1 && NETLIB_INVALID_HANDLE == -1);
IS(NETLIB_MSG_CONNECT == 1 && NETLIB_MSG_CONFIRM == 2 && NETLIB_MSG_READ == 3);
IS(NETLIB_MSG_WRITE == 4 && NETLIB_MSG_CLOSE == 5 && NETLIB_MSG_TIMER == 6 && NETLIB_MSG_LOOP == 7);
IS(NETLIB_OPT_SET_CALLBACK == 1 && NETLIB_OPT_SET_CALLBACK_DATA == 2);
IS(NETLIB_OPT_GET_REMOTE_IP == 3 && NETLIB_OPT_GET_REMOTE_PORT == 4);
IS(NETLIB_OPT_GET_LOCAL_IP == 5 && NETLIB_OPT_GET_LOCAL_PORT == 6);
IS(NETLIB_OPT_SET_SEND_BUF_SIZE == 7 && NETLIB_OPT_SET_RECV_BUF_SIZE == 8);

/* Each of the fourteen has this type, and no other. */
extern int (*const of_init)(void);
extern int (*const of_destroy)(void);
extern int (*const of_listen)(const char *, uint16_t, callback_t, void *);
extern net_handle_t (*const of_connect)(const char *, uint16_t, callback_t, void *);
extern int (*const of_send)(net_handle_t, const void *, int);
extern int (*const of_recv)(net_handle_t, void *, int);
extern int (*const of_close)(net_handle_t);
extern int (*const of_option)(net_handle_t, int, void *);
extern int (*const of_register_timer)(callback_t, void *, uint64_t);
extern int (*const of_delete_timer)(callback_t, void *);
extern int (*const of_add_loop)(callback_t, void *);
extern void (*const of_eventloop)(uint32_t);
extern void (*const of_stop_event)(void);
extern bool (*const of_is_running)(void);
extern int *const of_handle;

int (*const of_init)(void) = netlib_init;
int (*const of_destroy)(void) = netlib_destroy;
int (*const of_listen)(const char *, uint16_t, callback_t, void *) = netlib_listen;
net_handle_t (*const of_connect)(const char *, uint16_t, callback_t, void *) = netlib_connect;
int (*const of_send)(net_handle_t, const void *, int) = netlib_send;
int (*const of_recv)(net_handle_t, void *, int) = netlib_recv;
int (*const of_close)(net_handle_t) = netlib_close;
int (*const of_option)(net_handle_t, int, void *) = netlib_option;
int (*const of_register_timer)(callback_t, void *, uint64_t) = netlib_register_timer;
int (*const of_delete_timer)(callback_t, void *) = netlib_delete_timer;
int (*const of_add_loop)(callback_t, void *) = netlib_add_loop;
void (*const of_eventloop)(uint32_t) = netlib_eventloop;
void (*const of_stop_event)(void) = netlib_stop_event;
bool (*const of_is_running)(void) = netlib_is_running;
int *const of_handle = (net_handle_t *)0;

#ifdef __cplusplus
/* C++ programs need not say how long a turn waits. */
inline void run_by_default() { netlib_eventloop(); }
#endif
