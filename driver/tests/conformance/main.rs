//! The contract, sentence by sentence, on every driver.
//!
//! Each case is written once, against a [`World`](bed::World): a driver and peers that reach it. One line below
//! instantiates the whole suite for one driver. A case is named after the sentence of the contract
//! (`s10_…`: sentence 10, in the docs of the crate) and the behaviour it shows.
//!
//! A failed case names its seed; `ANYPORT_SEED=<seed> cargo test -p anyport-driver --test conformance <case>`
//! runs it with that seed alone.

#![expect(clippy::similar_names, reason = "every case has a seed, and many have sent and seen")]

#[cfg(all(guard_pages, target_os = "linux"))]
#[global_allocator]
static GUARD: anyport_guard::Guarding = anyport_guard::Guarding;

mod accept;
mod bed;
mod buffers;
mod cancel;
mod close;
mod connect;
mod dead_keys;
#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(target_os = "linux")]
mod disks;
mod files;
mod lazy;
#[cfg(unix)]
mod local;
mod moving;
mod ownership;
mod receive;
#[cfg(any(unix, windows))]
mod relayed;
mod send;
mod shutdown;
mod simulated;
mod soak;
mod spin;
#[cfg(any(unix, windows))]
mod system;
mod timeouts;
mod tokens;
mod wake;

/// One test for each case of each theme, in world `$world`.
macro_rules! cases {
    ($world:ty, $($theme:ident: [$($case:ident),+ $(,)?])*) => {
        $(mod $theme {
            $(#[test]
            fn $case() {
                crate::bed::run::<$world>(crate::$theme::$case::<$world>);
            })+
        })*
    };
}

/// The suite for one driver.
macro_rules! suite {
    ($driver:ident, $world:ty; $($more:tt)*) => {
        mod $driver {
            cases! {
                $world,
                accept: [
                    s07_accept_reports_who_connected,
                    s07_accept_takes_those_that_waited_before_it_was_armed,
                    s07_accept_stays_armed_over_many_rounds,
                    s07_accept_survives_peers_that_reset_in_the_backlog,
                    s07_accept_gives_what_a_peer_wrote_and_closed_in_the_backlog,
                    s07_accept_reports_the_cap_and_resumes_when_a_socket_closes,
                    s07_a_shortage_is_named_and_not_repeated_without_end,
                    s07_accept_ends_when_its_listener_closes,
                    s07_accepted_sockets_outlive_their_listener,
                    s07_two_listeners_do_not_mix,
                    s07_accept_works_over_v6,
                    s07_a_v6_wildcard_accepts_v4_too,
                    listen_reports_the_port_that_was_chosen,
                    listen_fails_if_the_address_is_in_use,
                    listen_fails_at_an_address_of_another_machine,
                    listen_fails_at_the_cap,
                    listen_first_fails_if_anyone_has_the_port,
                    listen_further_joins_the_first_and_both_accept,
                    listen_further_fails_on_a_port_that_is_not_shared,
                    listen_says_so_where_ports_are_not_shared,
                    s10_connections_that_nobody_accepted_end_with_their_listener,
                    s11_a_second_accept_is_refused_and_the_first_goes_on,
                    s11_operations_of_the_wrong_kind_of_socket_are_refused,
                ]
                connect: [
                    s02_connect_reaches_a_listener_and_both_talk,
                    s02_connect_works_over_v6,
                    s02_connect_to_nobody_is_refused_and_the_socket_can_only_be_closed,
                    s11_a_socket_that_is_not_connected_refuses_to_move_bytes,
                    s11_only_a_fresh_socket_connects_and_only_once,
                    s10_a_socket_that_never_connected_closes,
                    s10_close_gives_up_a_connect_that_nobody_answers,
                    s10_close_joins_a_connect_at_any_moment,
                    s02_connect_reaches_a_listener_of_the_same_driver,
                    s02_connect_reaches_a_listener_of_another_driver,
                    s02_many_connect_at_once,
                    s02_connect_at_the_cap_is_a_shortage_that_passes,
                    s02_connect_takes_options,
                    s10_a_connected_socket_closes_in_order,
                ]
                receive: [
                    s04_bytes_one_by_one_arrive_in_order,
                    s04_writes_of_any_size_arrive_whole,
                    s04_megabytes_arrive_exact,
                    s04_data_from_before_the_receive_is_delivered,
                    s04_sockets_do_not_mix,
                    s04_both_directions_run_at_once,
                    s03_the_end_of_the_stream_is_terminal,
                    s03_data_and_the_end_together_come_in_this_order,
                    s03_a_receive_after_the_end_ends_again,
                    s03_large_data_before_the_end_is_all_delivered,
                    s03_a_half_closed_peer_can_still_be_sent_to,
                    s03_a_reset_ends_an_idle_receive,
                    s03_a_reset_before_the_receive_ends_it,
                    s03_a_reset_after_unread_bytes_ends_the_receive,
                    s03_a_reset_in_the_middle_of_a_stream_ends_the_receive,
                    s03_a_reset_after_our_shutdown_ends_the_receive,
                    s03_a_reset_ends_receive_and_send_together,
                    s03_many_resets_at_once_end_every_receive,
                    s11_a_second_receive_is_refused_and_the_first_goes_on,
                ]
                buffers: [
                    s04_idle_receives_hold_no_buffer,
                    s04_two_buffers_serve_a_hundred_sockets,
                    s04_buffers_held_over_several_waits_serve_a_hundred_sockets,
                    s04_the_end_of_a_stream_is_seen_after_running_dry,
                    s04_a_reset_is_seen_after_running_dry,
                    s04_sockets_go_on_in_the_order_in_which_they_ran_dry,
                    s04_one_flooding_peer_does_not_starve_the_others,
                    s04_leases_keep_their_bytes_until_given_back_in_any_order,
                    s04_a_lease_outlives_its_socket,
                    s04_large_buffers_carry_large_pieces,
                    s04_small_buffers_carry_small_pieces,
                    s04_huge_pages_or_none_carry_every_byte,
                    s06_a_receive_that_ran_dry_can_be_cancelled,
                    s06_receives_that_ran_dry_and_were_cancelled_take_nobodys_turn,
                    s04_quiet_sockets_that_found_no_buffer_keep_nobody_waiting,
                    s10_a_socket_that_ran_dry_can_be_closed,
                    s04_a_lease_of_another_driver_is_refused,
                ]
                send: [
                    s05_one_piece_arrives,
                    s05_one_byte_arrives,
                    s05_an_empty_batch_completes,
                    s05_three_hundred_pieces_arrive_in_order,
                    s05_thousands_of_tiny_pieces_arrive_in_order,
                    s05_pooled_and_shared_pieces_mix,
                    s05_one_shared_piece_goes_to_many,
                    s05_64_mebibytes_reach_a_slow_reader_exact,
                    s05_a_send_does_not_end_before_all_was_taken,
                    s05_sends_one_after_the_other_keep_their_order,
                    s05_a_hundred_sockets_send_at_once,
                    s05_a_cancelled_send_tells_exactly_how_much_the_peer_gets,
                    s05_the_rest_of_a_cancelled_send_can_be_sent,
                    s05_sends_to_a_peer_that_closed_end_as_reset,
                    s05_a_reset_fails_the_send_and_the_batch_comes_back,
                    s05_a_reset_in_the_middle_of_reading_fails_the_send,
                    s05_a_send_after_a_reset_fails,
                    s05_a_half_closed_peer_takes_a_large_send,
                    s11_a_second_send_is_refused_and_the_first_goes_on,
                ]
                shutdown: [
                    s12_the_peer_sees_the_end_of_the_stream,
                    s12_receiving_goes_on,
                    s12_a_receive_can_start_after_shutdown,
                    s12_everything_sent_before_arrives_before_the_end,
                    s12_a_shutdown_comes_after_the_send_in_flight,
                    s12_a_send_after_shutdown_fails_and_sends_nothing,
                    s12_a_second_shutdown_completes,
                    s12_both_sides_can_shut_down,
                    s12_a_shutdown_after_a_reset_ends,
                ]
                close: [
                    s10_an_idle_socket_closes_and_the_peer_sees_the_end,
                    s10_close_joins_the_receive_in_flight,
                    s10_close_joins_what_was_submitted_just_before,
                    s10_close_joins_the_send_in_flight_and_its_count_is_true,
                    s10_close_joins_sends_at_any_moment,
                    s10_close_joins_both_directions,
                    s10_close_joins_a_shutdown,
                    s10_what_was_sent_before_close_arrives,
                    s10_close_after_the_peers_end,
                    s10_close_after_the_peers_reset,
                    s10_close_and_the_peers_reset_at_once,
                    s10_close_in_the_middle_of_a_stream,
                    s10_nothing_comes_after_closed,
                    s10_many_close_at_once,
                    s10_a_listener_closes_without_ever_accepting,
                    s10_slots_are_used_again_and_keys_are_not,
                    s10_reconnecting_for_long_leaves_nothing_behind,
                ]
                cancel: [
                    s06_an_idle_receive_is_cancelled,
                    s06_a_receive_that_waits_is_cancelled,
                    s06_cancelling_twice_ends_once,
                    s06_cancelling_nothing_has_no_completion,
                    s06_cancelling_after_the_end_has_no_completion,
                    s06_no_byte_is_lost_over_two_thousand_cancels,
                    s06_data_that_was_not_delivered_stays_for_the_next_receive,
                    s06_a_cancelled_receive_leaves_the_end_of_the_stream,
                    s06_a_cancel_and_a_reset_at_once_end_once,
                    s06_a_send_that_was_taken_is_not_cancelled,
                    s06_cancelling_one_direction_leaves_the_other,
                ]
                wake: [
                    s09_a_wake_before_the_wait_ends_it,
                    s09_many_wakes_end_one_wait,
                    s09_a_wake_from_another_thread_ends_the_wait,
                    s09_no_wake_of_four_threads_is_lost,
                    s09_wakes_do_not_disturb_completions,
                    s09_a_waker_outlives_its_driver,
                ]
                lazy: [
                    s08_a_lazy_send_is_told_by_the_end_of_the_next_wait,
                    s08_a_time_out_tells_of_lazy_sends,
                    s08_a_lazy_send_that_finds_no_room_goes_on_and_ends_a_wait,
                    s08_a_lazy_send_of_many_pieces_arrives_in_order,
                    s08_a_lazy_send_to_who_has_gone_fails_at_once,
                    s10_a_close_joins_a_lazy_send,
                    s06_a_lazy_send_can_be_cancelled,
                    s01_a_driver_can_be_dropped_with_lazy_sends,
                ]
                spin: [
                    s08_a_wait_that_looks_first_takes_its_time_and_no_longer,
                    s08_messages_one_at_a_time_arrive_while_it_looks,
                    s08_megabytes_both_ways_arrive_exact_while_it_looks,
                    s09_no_wake_is_lost_while_it_looks,
                ]
                timeouts: [
                    s08_a_wait_of_no_time_returns_at_once,
                    s08_a_bounded_wait_takes_its_time_and_returns,
                    s08_a_wait_until_a_moment_that_has_come_returns_at_once,
                    s08_waits_end_at_their_moments_whichever_were_asked_for_before,
                    s08_a_completion_ends_the_wait,
                    s08_a_wait_without_bound_ends_with_a_completion,
                    s08_what_was_submitted_completes_in_waits_of_no_time,
                    s08_refusals_end_a_wait_too,
                    s08_thousands_of_completions_come_in_bounded_waits,
                    s08_the_clock_does_not_go_back,
                ]
                tokens: [
                    s02_any_token_comes_back,
                    s02_every_kind_of_operation_carries_its_token,
                    s02_operations_of_one_turn_may_share_a_meaning_but_not_a_mix_up,
                ]
                dead_keys: [
                    s11_a_closed_key_refuses_every_operation,
                    s11_a_closed_listener_refuses_every_operation,
                    s11_after_close_was_submitted_everything_is_refused,
                    s11_the_key_of_another_driver_may_not_crash,
                    s11_a_stale_key_does_not_reach_the_next_socket_of_its_slot,
                    s11_a_cancel_behind_a_close_that_is_over_does_nothing,
                    s11_a_refusal_leaves_a_reset_socket_usable_to_close,
                    s11_a_second_shutdown_is_refused_while_one_is_in_flight,
                ]
                moving: [
                    s13_an_accepted_socket_moves_and_goes_on,
                    s13_unread_bytes_move_along,
                    s13_a_socket_that_was_used_stays,
                    s13_a_connected_socket_stays,
                    s13_the_old_key_is_dead,
                    s13_listeners_and_dead_keys_do_not_move,
                    s13_a_detached_socket_that_is_dropped_closes,
                    s13_a_detached_socket_outlives_its_driver,
                    s13_sockets_wander_between_three_drivers,
                ]
                ownership: [
                    s01_dropping_an_empty_driver,
                    s01_dropping_with_everything_in_flight,
                    s01_a_dropped_driver_frees_its_address,
                    s01_drivers_come_and_go_while_others_work,
                    s01_operations_in_any_order_are_safe,
                ]
                files: [
                    s14_an_append_goes_to_the_end_of_what_is_there,
                    s14_pieces_of_every_size_arrive_in_order,
                    s14_megabytes_arrive_exact,
                    s14_appends_one_after_the_other_keep_their_order,
                    s14_an_empty_batch_completes,
                    s14_an_empty_batch_is_in_flight_until_its_completion_is_out,
                    s14_a_folder_is_no_file_to_append_to,
                    s14_a_sync_completes,
                    s14_a_second_operation_is_refused_and_the_first_goes_on,
                    s14_a_close_joins_the_append_in_flight,
                    s14_a_close_joins_a_rotation,
                    s14_a_closed_key_refuses_every_operation,
                    s14_a_rotation_moves_old_files_on_and_removes_the_oldest,
                    s14_appending_goes_on_after_a_rotation_that_failed,
                    s14_a_rotation_that_keeps_none_keeps_one,
                    s14_a_wrong_path_is_an_error,
                    s14_many_files_do_not_mix,
                    s14_files_and_sockets_get_on_side_by_side,
                    s14_there_is_a_bound_on_open_files,
                    s01_dropping_with_appends_in_flight,
                    s02_operations_on_files_carry_their_tokens,
                ]
                soak: [
                    s05_two_hundred_connections_echo_every_byte,
                    s10_connections_that_churn_leave_nothing_behind,
                ]
            }
            cases! { $world, $($more)* }
        }
    };
}

/// The suite for one driver of the system. What concerns its descriptors comes on top where they can be seen.
#[cfg(target_os = "linux")]
macro_rules! system_suite {
    ($driver:ident, $system:ty) => {
        suite! {
            $driver, crate::system::OnSystem<$system>;
            descriptors: [
                s01_every_descriptor_is_closed_again,
                s01_a_closed_socket_gives_its_descriptor_back,
                s01_a_child_process_inherits_nothing,
                s07_accept_survives_running_out_of_descriptors,
            ]
            disks: [
                s14_a_full_disk_is_reported,
                s14_a_file_that_may_not_grow_has_what_was_taken,
                s14_a_file_that_others_change_may_grow_as_far_as_it_may,
                s14_a_rotation_in_a_folder_that_has_gone_fails,
                s14_files_give_their_descriptors_back,
                s14_a_pipe_is_no_file_to_append_to,
                s14_a_private_file_is_its_owners,
                s01_dropping_with_a_sync_in_flight,
            ]
        }
    };
}

#[cfg(any(windows, all(unix, not(target_os = "linux"))))]
macro_rules! system_suite {
    ($driver:ident, $system:ty) => {
        suite! { $driver, crate::system::OnSystem<$system>; }
    };
}

/// What is said of streams, over Unix sockets. Left out are the cases about ports, about addresses of peers, and those
/// whose peers reset connections: a Unix socket has none of these. Nor does a connect wait for room in a backlog there.
#[cfg(unix)]
macro_rules! unix_suite {
    ($driver:ident, $system:ty) => {
        mod $driver {
            cases! {
                crate::local::OnUnix<$system>,
                accept: [
                    s07_accept_gives_what_a_peer_wrote_and_closed_in_the_backlog,
                    s07_accept_reports_the_cap_and_resumes_when_a_socket_closes,
                    s07_accept_ends_when_its_listener_closes,
                    s07_accepted_sockets_outlive_their_listener,
                    listen_fails_at_the_cap,
                    s11_a_second_accept_is_refused_and_the_first_goes_on,
                    s11_operations_of_the_wrong_kind_of_socket_are_refused,
                ]
                connect: [
                    s02_connect_reaches_a_listener_and_both_talk,
                    s02_connect_to_nobody_is_refused_and_the_socket_can_only_be_closed,
                    s11_a_socket_that_is_not_connected_refuses_to_move_bytes,
                    s10_a_socket_that_never_connected_closes,
                    s10_close_joins_a_connect_at_any_moment,
                    s02_connect_reaches_a_listener_of_the_same_driver,
                    s02_connect_reaches_a_listener_of_another_driver,
                    s02_many_connect_at_once,
                    s10_a_connected_socket_closes_in_order,
                ]
                receive: [
                    s04_bytes_one_by_one_arrive_in_order,
                    s04_writes_of_any_size_arrive_whole,
                    s04_megabytes_arrive_exact,
                    s04_data_from_before_the_receive_is_delivered,
                    s04_sockets_do_not_mix,
                    s04_both_directions_run_at_once,
                    s03_the_end_of_the_stream_is_terminal,
                    s03_data_and_the_end_together_come_in_this_order,
                    s03_a_receive_after_the_end_ends_again,
                    s03_large_data_before_the_end_is_all_delivered,
                    s03_a_half_closed_peer_can_still_be_sent_to,
                    s11_a_second_receive_is_refused_and_the_first_goes_on,
                ]
                buffers: [
                    s04_idle_receives_hold_no_buffer,
                    s04_two_buffers_serve_a_hundred_sockets,
                    s04_the_end_of_a_stream_is_seen_after_running_dry,
                    s04_one_flooding_peer_does_not_starve_the_others,
                ]
                send: [
                    s05_one_piece_arrives,
                    s05_an_empty_batch_completes,
                    s05_three_hundred_pieces_arrive_in_order,
                    s05_thousands_of_tiny_pieces_arrive_in_order,
                    s05_64_mebibytes_reach_a_slow_reader_exact,
                    s05_a_send_does_not_end_before_all_was_taken,
                    s05_sends_one_after_the_other_keep_their_order,
                    s05_a_hundred_sockets_send_at_once,
                    s05_a_cancelled_send_tells_exactly_how_much_the_peer_gets,
                    s05_the_rest_of_a_cancelled_send_can_be_sent,
                    s05_sends_to_a_peer_that_closed_end_as_reset,
                    s05_a_half_closed_peer_takes_a_large_send,
                ]
                shutdown: [
                    s12_the_peer_sees_the_end_of_the_stream,
                    s12_receiving_goes_on,
                    s12_everything_sent_before_arrives_before_the_end,
                    s12_a_shutdown_comes_after_the_send_in_flight,
                    s12_a_send_after_shutdown_fails_and_sends_nothing,
                    s12_both_sides_can_shut_down,
                ]
                close: [
                    s10_an_idle_socket_closes_and_the_peer_sees_the_end,
                    s10_close_joins_the_receive_in_flight,
                    s10_close_joins_the_send_in_flight_and_its_count_is_true,
                    s10_close_joins_both_directions,
                    s10_what_was_sent_before_close_arrives,
                    s10_close_after_the_peers_end,
                    s10_many_close_at_once,
                ]
                cancel: [
                    s06_an_idle_receive_is_cancelled,
                    s06_no_byte_is_lost_over_two_thousand_cancels,
                    s06_data_that_was_not_delivered_stays_for_the_next_receive,
                    s06_a_cancelled_receive_leaves_the_end_of_the_stream,
                    s06_cancelling_one_direction_leaves_the_other,
                ]
                moving: [
                    s13_an_accepted_socket_moves_and_goes_on,
                    s13_unread_bytes_move_along,
                    s13_sockets_wander_between_three_drivers,
                ]
                ownership: [
                    s01_dropping_with_everything_in_flight,
                    s01_drivers_come_and_go_while_others_work,
                ]
            }
        }
    };
}

suite! { sim, crate::simulated::Simulated<crate::simulated::Quiet>; }
// The simulator's other weathers have nothing of a system in them: a seed is the same run everywhere, which
// `simulation/tests/seeds.rs` shows on Windows too. Under Wine they would take minutes.
#[cfg(not(windows))]
suite! { sim_restless, crate::simulated::Simulated<crate::simulated::Restless>; }
#[cfg(not(windows))]
suite! { sim_sluggish, crate::simulated::Simulated<crate::simulated::Sluggish>; }
#[cfg(not(windows))]
suite! { sim_taped, crate::simulated::Simulated<crate::simulated::Taped>; }
#[cfg(unix)]
system_suite! { readiness, crate::system::OnReadiness }
#[cfg(unix)]
unix_suite! { readiness_unix, crate::system::OnReadiness }
#[cfg(target_os = "linux")]
unix_suite! { io_uring_unix, crate::system::OnIoUring }
#[cfg(target_os = "linux")]
system_suite! { io_uring, crate::system::OnIoUring }
#[cfg(windows)]
system_suite! { iocp, crate::system::OnIocp }

// The relay, in front of each of them.
suite! { relay_sim, crate::relayed::Stepped<crate::simulated::Simulated<crate::simulated::Quiet>>; }
#[cfg(not(windows))]
suite! { relay_sim_restless, crate::relayed::Stepped<crate::simulated::Simulated<crate::simulated::Restless>>; }
#[cfg(not(windows))]
suite! { relay_sim_sluggish, crate::relayed::Stepped<crate::simulated::Simulated<crate::simulated::Sluggish>>; }
#[cfg(unix)]
suite! { relay_readiness, crate::relayed::Stepped<crate::system::OnSystem<crate::system::OnReadiness>>; }
#[cfg(unix)]
system_suite! { relay_readiness_threads, crate::relayed::Threaded<crate::system::OnReadiness> }
#[cfg(target_os = "linux")]
suite! { relay_io_uring, crate::relayed::Stepped<crate::system::OnSystem<crate::system::OnIoUring>>; }
#[cfg(target_os = "linux")]
system_suite! { relay_io_uring_threads, crate::relayed::Threaded<crate::system::OnIoUring> }
#[cfg(windows)]
suite! { relay_iocp, crate::relayed::Stepped<crate::system::OnSystem<crate::system::OnIocp>>; }
#[cfg(windows)]
system_suite! { relay_iocp_threads, crate::relayed::Threaded<crate::system::OnIocp> }
