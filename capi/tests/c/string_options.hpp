// Options that are strings: the same program for both ways to declare netlib.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            std::fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #condition);     \
            std::exit(1);                                                                  \
        }                                                                                  \
    } while (0)

namespace {

std::string short_text, long_text, local_text;
const char* const long_name = "a-name-that-does-not-fit-into-a-string-object-itself.invalid";

void on_event(void*, std::uint8_t msg, std::uint32_t number, void*)
{
    net_handle_t handle = static_cast<net_handle_t>(number);
    if (msg == 1) {
        CHECK(netlib_option(handle, 3, &short_text) == 0);
        CHECK(netlib_option(handle, 5, &local_text) == 0);
        netlib_stop_event();
    }
}

int read_strings(std::uint16_t port)
{
    CHECK(netlib_init() == 0);
    CHECK(netlib_listen("127.0.0.1", port, on_event, nullptr) == 0);
    net_handle_t named = netlib_connect(long_name, port, on_event, nullptr);
    CHECK(named > 0);
    CHECK(netlib_option(named, 3, &long_text) == 0 && long_text == long_name);
    CHECK(netlib_option(named, 3, nullptr) == -1 && errno == EINVAL);
    // Once more, into one that holds something.
    CHECK(netlib_option(named, 3, &long_text) == 0 && long_text == long_name);
    CHECK(netlib_connect("127.0.0.1", port, on_event, nullptr) > 0);
    netlib_eventloop();
    CHECK(short_text == "127.0.0.1" && local_text == "127.0.0.1");
    short_text += " can be used";
    CHECK(netlib_destroy() == 0);
    return 0;
}

} // namespace

int main(int, char** arguments)
{
    return read_strings(static_cast<std::uint16_t>(std::atoi(arguments[1])));
}
