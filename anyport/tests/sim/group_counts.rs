//! What groups count: of each message, for each member, what became of it.

use anyport::sim::{Behaviour, SimNet};

use crate::{
    bed::SOON,
    groups::{Bed, losses, tight},
};

/// Who does not read is sent all kinds of messages by two groups and singly; it leaves groups with messages of theirs in
/// its queue, and joins them again. Every message is counted once by the group that it came from: it came, or was lost.
#[test]
fn each_group_counts_what_came_and_what_was_lost_of_its_own() {
    let mut lost_in_all = [0; 3];
    for seed in 0..30 {
        let lost = one_run(seed);
        lost_in_all = std::array::from_fn(|at| lost_in_all[at] + lost[at]);
    }
    assert!(lost_in_all.iter().all(|lost| *lost > 200), "too little was lost: {lost_in_all:?}");
}

fn one_run(seed: u64) -> [usize; 3] {
    let behaviour = Behaviour::default().with_socket_buffer_bytes(2_000..=2_000);
    let mut bed = Bed::new(2, &SimNet::with_behaviour(seed, behaviour), tight());
    let (mut publisher, mut fast, mut slow) = (bed.peer(), bed.peer(), bed.peer());
    bed.say(&mut fast, "join a; join b");
    bed.lines(&mut fast);
    let mut draw = seed;
    let mut below = |bound: u64| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((draw >> 33) % bound) as usize
    };
    let mut member = [false; 2];
    // What was for the slow one and for the fast one, of each group; and for the slow one singly.
    let (mut for_slow, mut for_fast, mut singly) = ([0; 2], [0; 2], 0);
    let mut came_fast = Vec::new();
    for number in 0..150 {
        let mut line = Vec::new();
        if below(8) == 0 {
            let group = below(2);
            line.push(format!("{} {}", if member[group] { "leave" } else { "join" }, ["a", "b"][group]));
            member[group] = !member[group];
        }
        if below(6) == 0 {
            singly += 1;
            line.push(format!("maybe - single {number} {}", "s".repeat(60)));
        }
        if !line.is_empty() {
            bed.say(&mut slow, &line.join(";"));
            bed.engine.run_for(SOON);
        }
        let mut line = Vec::new();
        for _ in 0..=below(3) {
            let (group, verb) = (below(2), ["skip", "drop", "value", "value"][below(4)]);
            // Values have keys that both groups use.
            let text = format!("{} {number} {}", ["a", "b"][group], "x".repeat(20 + below(300)));
            line.push(format!("{verb} {} {} {text}", ["a", "b"][group], below(3)));
            for_fast[group] += 1;
            for_slow[group] += usize::from(member[group]);
        }
        bed.say(&mut publisher, &line.join(";"));
        came_fast.extend(bed.lines(&mut fast));
        bed.engine.check().unwrap();
    }
    let mut came_slow = bed.lines(&mut slow);
    bed.say(&mut slow, "losses");
    came_slow.extend(bed.lines(&mut slow));
    let lost = losses(&came_slow);
    let of = |lines: &[String], name: &str| {
        lines.iter().filter(|line| line.split(' ').nth(1) == Some(name)).count()
    };
    let mut lost_of_groups = 0;
    for (group, name) in ["a", "b"].into_iter().enumerate() {
        let info = bed.info(name);
        let (slow, fast) = (of(&came_slow, name), of(&came_fast, name));
        assert_eq!(info.delivered as usize, slow + fast, "seed {seed}, group {name}");
        let for_both = for_slow[group] + for_fast[group];
        assert_eq!(info.losses.total() as usize, for_both - slow - fast, "seed {seed}, group {name}");
        lost_of_groups += for_slow[group] - slow;
    }
    let came_singly = came_slow.iter().filter(|line| line.starts_with("single ")).count();
    assert_eq!(lost.iter().sum::<usize>(), lost_of_groups + singly - came_singly, "seed {seed}");
    bed.end();
    lost
}
