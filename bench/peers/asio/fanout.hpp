// What one connection says, all others are sent: as Asio's chat example does it, with a room of participants and a
// queue for each of them, of which one message at a time is written. The message is shared, not copied for each.
#pragma once

#include <asio.hpp>
#include <cstddef>
#include <deque>
#include <memory>
#include <set>
#include <utility>
#include <vector>

namespace fanout {

using Message = std::shared_ptr<const std::vector<char>>;

class Participant;

class Room {
public:
    void join(std::shared_ptr<Participant> participant) { participants_.insert(std::move(participant)); }
    void leave(const std::shared_ptr<Participant>& participant) { participants_.erase(participant); }
    inline void deliver(const Participant* from, const Message& message);

private:
    std::set<std::shared_ptr<Participant>> participants_;
};

class Participant : public std::enable_shared_from_this<Participant> {
public:
    Participant(asio::ip::tcp::socket socket, std::size_t buffer_bytes, Room& room)
        : socket_(std::move(socket)), buffer_(buffer_bytes), room_(room) {}

    void start() {
        room_.join(shared_from_this());
        read();
    }

    void deliver(const Message& message) {
        bool writing = !messages_.empty();
        messages_.push_back(message);
        if (!writing) write();
    }

private:
    void read() {
        socket_.async_read_some(
            asio::buffer(buffer_), [self = shared_from_this()](std::error_code error, std::size_t count) {
                if (error) {
                    self->room_.leave(self);
                    return;
                }
                auto first = self->buffer_.begin();
                auto end = first + static_cast<std::ptrdiff_t>(count);
                self->room_.deliver(self.get(), std::make_shared<const std::vector<char>>(first, end));
                self->read();
            });
    }

    void write() {
        asio::async_write(
            socket_, asio::buffer(*messages_.front()),
            [self = shared_from_this()](std::error_code error, std::size_t) {
                if (error) {
                    self->room_.leave(self);
                    return;
                }
                self->messages_.pop_front();
                if (!self->messages_.empty()) self->write();
            });
    }

    asio::ip::tcp::socket socket_;
    std::vector<char> buffer_;
    Room& room_;
    std::deque<Message> messages_;
};

void Room::deliver(const Participant* from, const Message& message) {
    for (const auto& participant : participants_) {
        if (participant.get() != from) participant->deliver(message);
    }
}

// What a new connection is handed to.
class Server {
public:
    explicit Server(std::size_t buffer_bytes) : buffer_bytes_(buffer_bytes) {}

    void accepted(asio::ip::tcp::socket socket) {
        std::make_shared<Participant>(std::move(socket), buffer_bytes_, room_)->start();
    }

private:
    std::size_t buffer_bytes_;
    Room room_;
};

}  // namespace fanout
