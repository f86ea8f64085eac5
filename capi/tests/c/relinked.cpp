// Declares what a program that was written for netlib declares, and nothing else.
#include <cstdint>

typedef int net_handle_t;
typedef void (*callback_t)(void* callback_data, std::uint8_t msg, std::uint32_t handle, void*);

extern "C" {
int netlib_init();
int netlib_destroy();
int netlib_listen(const char* server_ip, std::uint16_t port, callback_t callback, void* data);
net_handle_t netlib_connect(const char* server_ip, std::uint16_t port, callback_t callback,
                            void* data);
int netlib_option(net_handle_t handle, int option, void* value);
void netlib_eventloop(std::uint32_t wait_timeout = 100);
void netlib_stop_event();
}

#include "string_options.hpp"
