// A stand-in for the original of netlib, in its shape: edge-triggered epoll, the descriptor as
// the handle, a map from it to the socket, FIONREAD before each READ, a system call for each send
// and recv, WRITE after each READ. What `pdu_echo` needs of it, and nothing else.

#include <netlib.h>

#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <list>
#include <memory>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <unordered_map>

namespace {

enum class State { listening, connected, closing };

struct Socket {
    int fd;
    State state;
    callback_t callback;
    void* data;
    std::string remote_ip;
    std::uint16_t remote_port;
};

struct Timer {
    callback_t callback;
    void* data;
    std::uint64_t interval;
    std::uint64_t next;
};

std::unordered_map<int, std::shared_ptr<Socket>> sockets;
std::list<Timer> timers;
int events_fd = -1;
volatile bool running = false;

std::uint64_t now_ms()
{
    timeval now;
    gettimeofday(&now, nullptr);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000 + now.tv_usec / 1000;
}

std::shared_ptr<Socket> find(int fd)
{
    auto found = sockets.find(fd);
    return found == sockets.end() ? nullptr : found->second;
}

void add(const std::shared_ptr<Socket>& socket)
{
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLPRI | EPOLLERR | EPOLLHUP;
    event.data.fd = socket->fd;
    sockets[socket->fd] = socket;
    epoll_ctl(events_fd, EPOLL_CTL_ADD, socket->fd, &event);
}

void tell(Socket& socket, std::uint8_t msg)
{
    socket.callback(socket.data, msg, static_cast<std::uint32_t>(socket.fd), nullptr);
}

void accept_all(Socket& listener)
{
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    int fd;
    while ((fd = accept(listener.fd, reinterpret_cast<sockaddr*>(&peer), &length)) != -1) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fcntl(fd, F_SETFL, O_NONBLOCK | fcntl(fd, F_GETFL));
        auto socket = std::make_shared<Socket>();
        *socket = Socket{fd, State::connected, listener.callback, listener.data,
                         inet_ntoa(peer.sin_addr), ntohs(peer.sin_port)};
        add(socket);
        tell(*socket, NETLIB_MSG_CONNECT);
    }
}

void on_readable(Socket& socket)
{
    int available = 0;
    if (socket.state == State::listening) {
        accept_all(socket);
    } else if (ioctl(socket.fd, FIONREAD, &available) == -1 || available == 0) {
        socket.state = State::closing;
        tell(socket, NETLIB_MSG_CLOSE);
    } else {
        tell(socket, NETLIB_MSG_READ);
    }
}

void dispatch(const epoll_event& event)
{
    auto socket = find(event.data.fd);
    if (!socket) {
        return;
    }
    if (event.events & EPOLLIN) {
        on_readable(*socket);
    }
    if (event.events & EPOLLOUT && socket->state == State::connected) {
        tell(*socket, NETLIB_MSG_WRITE);
    }
    if (event.events & (EPOLLPRI | EPOLLERR | EPOLLHUP)) {
        tell(*socket, NETLIB_MSG_CLOSE);
    }
}

void check_timers()
{
    std::uint64_t now = now_ms();
    for (auto timer = timers.begin(); timer != timers.end();) {
        Timer& due = *timer++;
        if (now >= due.next) {
            due.next += due.interval;
            due.callback(due.data, NETLIB_MSG_TIMER, 0, nullptr);
        }
    }
}

} // namespace

extern "C" {

int netlib_init()
{
    events_fd = epoll_create1(0);
    return events_fd >= 0 ? NETLIB_OK : NETLIB_ERROR;
}

int netlib_destroy()
{
    return NETLIB_OK;
}

int netlib_listen(const char* server_ip, std::uint16_t port, callback_t callback, void* data)
{
    sockaddr_in own{};
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    own.sin_family = AF_INET;
    own.sin_port = htons(port);
    inet_pton(AF_INET, server_ip, &own.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    // The original asks for 64, with which a thousand clients at once would wait for each other.
    if (bind(fd, reinterpret_cast<sockaddr*>(&own), sizeof own) == -1 || listen(fd, 4096) == -1) {
        close(fd);
        return NETLIB_ERROR;
    }
    auto listener = std::make_shared<Socket>();
    *listener = Socket{fd, State::listening, callback, data, "", 0};
    add(listener);
    return NETLIB_OK;
}

int netlib_send(net_handle_t handle, const void* buf, int len)
{
    auto socket = find(handle);
    if (!socket || socket->state != State::connected) {
        return NETLIB_ERROR;
    }
    ssize_t sent = send(socket->fd, buf, static_cast<std::size_t>(len), 0);
    if (sent == -1 && (errno == EAGAIN || errno == EINPROGRESS)) {
        return 0;
    }
    return static_cast<int>(sent);
}

int netlib_recv(net_handle_t handle, void* buf, int len)
{
    auto socket = find(handle);
    return socket ? static_cast<int>(recv(socket->fd, buf, static_cast<std::size_t>(len), 0))
                  : NETLIB_ERROR;
}

int netlib_close(net_handle_t handle)
{
    auto socket = find(handle);
    if (!socket) {
        return NETLIB_ERROR;
    }
    epoll_ctl(events_fd, EPOLL_CTL_DEL, socket->fd, nullptr);
    sockets.erase(socket->fd);
    close(socket->fd);
    return NETLIB_OK;
}

int netlib_option(net_handle_t handle, int opt, void* optval)
{
    auto socket = find(handle);
    if (!socket || (opt >= NETLIB_OPT_GET_REMOTE_IP && !optval)) {
        return NETLIB_ERROR;
    }
    switch (opt) {
    case NETLIB_OPT_SET_CALLBACK:
        socket->callback = reinterpret_cast<callback_t>(optval);
        break;
    case NETLIB_OPT_SET_CALLBACK_DATA:
        socket->data = optval;
        break;
    case NETLIB_OPT_GET_REMOTE_IP:
        *static_cast<std::string*>(optval) = socket->remote_ip;
        break;
    case NETLIB_OPT_GET_REMOTE_PORT:
        *static_cast<std::uint16_t*>(optval) = socket->remote_port;
        break;
    }
    return NETLIB_OK;
}

int netlib_register_timer(callback_t callback, void* user_data, std::uint64_t interval)
{
    timers.push_back(Timer{callback, user_data, interval, now_ms() + interval});
    return NETLIB_OK;
}

void netlib_eventloop(std::uint32_t wait_timeout)
{
    epoll_event events[1024];
    running = true;
    while (running) {
        int ready = epoll_wait(events_fd, events, 1024, static_cast<int>(wait_timeout));
        for (int at = 0; at < ready; at++) {
            dispatch(events[at]);
        }
        check_timers();
    }
}

void netlib_stop_event()
{
    running = false;
}
}
