// Asio's echo, as its tutorial shows it: each session reads what there is, writes all of it, and reads again.
#pragma once

#include <asio.hpp>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace echo {

class Session : public std::enable_shared_from_this<Session> {
public:
    Session(asio::ip::tcp::socket socket, std::size_t buffer_bytes)
        : socket_(std::move(socket)), buffer_(buffer_bytes) {}

    void read() {
        socket_.async_read_some(
            asio::buffer(buffer_), [self = shared_from_this()](std::error_code error, std::size_t count) {
                if (!error) self->write(count);
            });
    }

private:
    void write(std::size_t count) {
        asio::async_write(
            socket_, asio::buffer(buffer_.data(), count),
            [self = shared_from_this()](std::error_code error, std::size_t) {
                if (!error) self->read();
            });
    }

    asio::ip::tcp::socket socket_;
    std::vector<char> buffer_;
};

// What a new connection is handed to.
class Server {
public:
    explicit Server(std::size_t buffer_bytes) : buffer_bytes_(buffer_bytes) {}

    void accepted(asio::ip::tcp::socket socket) {
        std::make_shared<Session>(std::move(socket), buffer_bytes_)->read();
    }

private:
    std::size_t buffer_bytes_;
};

}  // namespace echo
