// A callback that throws, and a main that would like to catch it.
#include <netlib.h>

#include <cstdio>
#include <stdexcept>

namespace {

struct Noted {
    ~Noted() { std::puts("unwound"); }
};

void on_timer(void*, std::uint8_t, std::uint32_t, void*)
{
    Noted noted;
    throw std::runtime_error("from a callback");
}

} // namespace

int main()
{
    std::setvbuf(stdout, nullptr, _IONBF, 0);
    netlib_register_timer(on_timer, nullptr, 1);
    try {
        netlib_eventloop();
    } catch (const std::exception&) {
        std::puts("caught");
    }
    return 0;
}
