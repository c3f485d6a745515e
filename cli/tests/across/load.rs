//! The loader against the server: it checks every byte that comes back.

use crate::party::{a_side_is_foreign, load, serve, server_drivers, stop};

/// One run after the other against one server; each is connections, bytes of a message, messages outstanding.
fn all_comes_back(loads: &[(u64, u64, u64)]) {
    // What is emulated is slow.
    let seconds = if a_side_is_foreign() { "1" } else { "0.5" };
    for driver in server_drivers() {
        let server = serve(&driver);
        let (mut connections_sum, mut bytes_sum) = (0, 0);
        for &(connections, size, depth) in loads {
            let object = load(
                &server,
                &format!(
                    "--connections {connections} --size {size} --depth {depth} --duration {seconds} --warmup 0"
                ),
            );
            let bytes = object["bytes_checked"].as_u64().expect("a number");
            println!("{connections} connections, {size} bytes, depth {depth}: {bytes} bytes came back");
            assert!(bytes >= connections * size * depth && bytes.is_multiple_of(size), "{object}");
            assert_eq!(object["connections_opened"], connections, "{object}");
            assert_eq!(object["connections_lost"], serde_json::json!({}), "{object}");
            assert_eq!(object["unanswered"], 0, "{object}");
            connections_sum += connections;
            bytes_sum += bytes;
        }
        let counted = stop(server);
        assert_eq!((counted.accepted, counted.closed("peer_closed")), (connections_sum, connections_sum));
        assert_eq!((counted.bytes_received, counted.bytes_sent), (bytes_sum, bytes_sum), "{counted:?}");
    }
}

#[test]
fn a_thousand_connections_one_message_at_a_time() {
    all_comes_back(&[(1000, 64, 1)]);
}

#[test]
fn many_messages_in_flight() {
    all_comes_back(&[(200, 64, 16), (1, 1, 4096)]);
}

#[test]
fn large_messages() {
    all_comes_back(&[(64, 16_384, 1), (16, 16_384, 16), (2, 1_000_000, 2)]);
}
