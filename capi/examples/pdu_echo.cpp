// A server of PDUs in C++, as programs for netlib are written: a connection is an object with a
// buffer for what comes in and one for what must wait to go out. Every PDU comes back.
//
//     c++ -I capi/include capi/examples/pdu_echo.cpp target/release/libnetlib.a -lpthread -ldl -lm
//     ./a.out 7000
//
// It calls nothing but netlib's own functions, so it links with any library that has them.

#include <netlib.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr std::size_t header_length = 16;
constexpr std::size_t pdu_length_max = 1 << 20;
constexpr int receive_length = 2048;
constexpr int send_length = 131072;
constexpr std::uint64_t timer_ms = 1000;
constexpr std::uint64_t silence_ms_max = 120000;

// Bytes in a row. They are consumed by moving an index, and moved to the front when room is made,
// so that a PDU costs no move of what follows it.
class Buffer {
public:
    const char* data() const { return bytes_.data() + start_; }
    std::size_t size() const { return end_ - start_; }

    char* room(std::size_t length)
    {
        if (start_ == end_) {
            start_ = end_ = 0;
        } else if (end_ + length > bytes_.size() && start_ > 0) {
            std::memmove(bytes_.data(), data(), size());
            end_ -= start_;
            start_ = 0;
        }
        if (end_ + length > bytes_.size()) {
            bytes_.resize((end_ + length) * 5 / 4);
        }
        return bytes_.data() + end_;
    }

    void extend(std::size_t length) { end_ += length; }
    void consume(std::size_t length) { start_ += length; }

private:
    std::vector<char> bytes_;
    std::size_t start_ = 0;
    std::size_t end_ = 0;
};

class Connection {
public:
    explicit Connection(net_handle_t handle) : handle_(handle)
    {
        std::uint16_t port = 0;
        netlib_option(handle_, NETLIB_OPT_GET_REMOTE_IP, &peer_);
        netlib_option(handle_, NETLIB_OPT_GET_REMOTE_PORT, &port);
        peer_ += ":" + std::to_string(port);
    }

    const std::string& peer() const { return peer_; }

    // Whether the connection goes on.
    bool on_read()
    {
        silent_ms_ = 0;
        // A peer that does not take its answers is not heard either: what it sends waits below.
        while (!is_busy_) {
            char* room = in_.room(receive_length);
            int received = netlib_recv(handle_, room, receive_length);
            if (received <= 0) {
                return true;
            }
            in_.extend(static_cast<std::size_t>(received));
            if (!cut_pdus()) {
                return false;
            }
        }
        return true;
    }

    bool on_write()
    {
        if (!is_busy_) {
            return true;
        }
        is_busy_ = false;
        while (out_.size() > 0 && !is_busy_) {
            out_.consume(take(out_.data(), out_.size()));
        }
        // What has arrived meanwhile waits to be read.
        return is_busy_ || on_read();
    }

    // Once a second.
    bool on_timer()
    {
        silent_ms_ += timer_ms;
        return silent_ms_ < silence_ms_max;
    }

private:
    bool cut_pdus()
    {
        while (in_.size() >= header_length) {
            const unsigned char* header = reinterpret_cast<const unsigned char*>(in_.data());
            std::size_t length = static_cast<std::size_t>(header[0]) << 24 | header[1] << 16 |
                                 header[2] << 8 | header[3];
            if (length < header_length || length > pdu_length_max) {
                return false;
            }
            if (in_.size() < length) {
                break;
            }
            send(in_.data(), length);
            in_.consume(length);
        }
        return true;
    }

    void send(const char* bytes, std::size_t length)
    {
        std::size_t sent = 0;
        while (!is_busy_ && sent < length) {
            sent += take(bytes + sent, length - sent);
        }
        if (sent < length) {
            std::memcpy(out_.room(length - sent), bytes + sent, length - sent);
            out_.extend(length - sent);
        }
    }

    // Gives bytes to netlib; how many it took. With none it is busy until NETLIB_MSG_WRITE.
    std::size_t take(const char* bytes, std::size_t length)
    {
        int chunk = length < send_length ? static_cast<int>(length) : send_length;
        int sent = netlib_send(handle_, const_cast<char*>(bytes), chunk);
        is_busy_ = sent <= 0;
        return is_busy_ ? 0 : static_cast<std::size_t>(sent);
    }

    net_handle_t handle_;
    std::string peer_;
    bool is_busy_ = false;
    std::uint64_t silent_ms_ = 0;
    Buffer in_;
    Buffer out_;
};

using Connections = std::unordered_map<net_handle_t, std::unique_ptr<Connection>>;

void end(Connections& connections, net_handle_t handle)
{
    netlib_close(handle);
    connections.erase(handle);
}

void on_connection(void* data, std::uint8_t msg, std::uint32_t handle, void*)
{
    Connections& connections = *static_cast<Connections*>(data);
    auto found = connections.find(static_cast<net_handle_t>(handle));
    if (found == connections.end()) {
        return;
    }
    bool goes_on = true;
    switch (msg) {
    case NETLIB_MSG_READ:
        goes_on = found->second->on_read();
        break;
    case NETLIB_MSG_WRITE:
        goes_on = found->second->on_write();
        break;
    case NETLIB_MSG_CLOSE:
        goes_on = false;
        break;
    default:
        break;
    }
    if (!goes_on) {
        end(connections, found->first);
    }
}

void on_listener(void* data, std::uint8_t msg, std::uint32_t number, void*)
{
    if (msg != NETLIB_MSG_CONNECT) {
        return;
    }
    net_handle_t handle = static_cast<net_handle_t>(number);
    Connections& connections = *static_cast<Connections*>(data);
    bool is_first = connections.empty();
    auto& connection = connections[handle];
    connection.reset(new Connection(handle));
    netlib_option(handle, NETLIB_OPT_SET_CALLBACK, reinterpret_cast<void*>(on_connection));
    netlib_option(handle, NETLIB_OPT_SET_CALLBACK_DATA, data);
    if (is_first) {
        std::printf("first client %s\n", connection->peer().c_str());
        std::fflush(stdout);
    }
}

void on_second(void* data, std::uint8_t, std::uint32_t, void*)
{
    Connections& connections = *static_cast<Connections*>(data);
    std::vector<net_handle_t> silent;
    for (auto& entry : connections) {
        if (!entry.second->on_timer()) {
            silent.push_back(entry.first);
        }
    }
    for (net_handle_t handle : silent) {
        end(connections, handle);
    }
}

void on_signal(int) { netlib_stop_event(); }

} // namespace

int main(int count, char** arguments)
{
    std::uint16_t port = static_cast<std::uint16_t>(count > 1 ? std::atoi(arguments[1]) : 7000);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGTERM, on_signal);

    Connections connections;
    if (netlib_init() != NETLIB_OK ||
        netlib_listen("127.0.0.1", port, on_listener, &connections) != NETLIB_OK) {
        std::fprintf(stderr, "cannot listen at port %u\n", port);
        return 1;
    }
    netlib_register_timer(on_second, &connections, timer_ms);
    std::printf("listening on 127.0.0.1:%u\n", port);
    std::fflush(stdout);
    netlib_eventloop();
    netlib_destroy();
    return 0;
}
