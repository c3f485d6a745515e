// C++ Asio on one thread, as one of the servers that `compare` puts side by side: it compiles this file itself.
//
// Usage: compare-asio echo|fanout PORT BUFFER_BYTES. Listens on 127.0.0.1 until it is killed.

#include <asio.hpp>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <utility>

#include "echo.hpp"
#include "fanout.hpp"

namespace {

// As that of all servers here.
constexpr int backlog = 4096;

template <typename Server>
class Listener {
public:
    Listener(asio::io_context& context, const asio::ip::tcp::endpoint& endpoint, std::size_t buffer_bytes)
        : acceptor_(context), server_(buffer_bytes) {
        acceptor_.open(endpoint.protocol());
        acceptor_.set_option(asio::socket_base::reuse_address(true));
        acceptor_.bind(endpoint);
        acceptor_.listen(backlog);
    }

    void accept() {
        acceptor_.async_accept([this](std::error_code error, asio::ip::tcp::socket socket) {
            if (!error) {
                std::error_code ignored;
                // Fails only if the peer is gone, which reading will tell.
                socket.set_option(asio::ip::tcp::no_delay(true), ignored);
                server_.accepted(std::move(socket));
            }
            accept();
        });
    }

private:
    asio::ip::tcp::acceptor acceptor_;
    Server server_;
};

template <typename Server>
void serve(const asio::ip::tcp::endpoint& endpoint, std::size_t buffer_bytes) {
    // The hint: one thread runs it.
    asio::io_context context{1};
    Listener<Server> listener(context, endpoint, buffer_bytes);
    listener.accept();
    context.run();
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) {
        std::cerr << "usage: compare-asio echo|fanout PORT BUFFER_BYTES\n";
        return EXIT_FAILURE;
    }
    try {
        const std::string role = arguments[1];
        const auto port = static_cast<unsigned short>(std::stoul(arguments[2]));
        const std::size_t buffer_bytes = std::stoul(arguments[3]);
        const asio::ip::tcp::endpoint endpoint(asio::ip::address_v4::loopback(), port);
        if (role == "echo") {
            serve<echo::Server>(endpoint, buffer_bytes);
        } else {
            serve<fanout::Server>(endpoint, buffer_bytes);
        }
    } catch (const std::exception& error) {
        std::cerr << "compare-asio: " << error.what() << "\n";
    }
    return EXIT_FAILURE;
}
