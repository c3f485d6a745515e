//! Names and scores in a file that is slow to read and to write, as a database is: no shard ever waits for it.
//!
//! `set NAME SCORE` and `get NAME` are lines; the answer comes when the file has been read or written. Run it, then:
//! `nc 127.0.0.1 7007`. The file's calls stand for a driver of a real database, whose calls block as these do.

use std::{fs, io, path::PathBuf, sync::Arc};

use anyport::{PoolConfig, prelude::*};

/// The table, one line for each name. Shared by all threads of the pool; each call opens the file for itself.
struct Scores {
    file: PathBuf,
    writes: std::sync::Mutex<()>,
}

impl Scores {
    fn get(&self, name: &str) -> io::Result<Option<String>> {
        let text = match fs::read_to_string(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let lines = text.lines().rev().filter_map(|line| line.split_once(' '));
        Ok(lines.into_iter().find(|(found, _)| *found == name).map(|(_, score)| score.to_owned()))
    }

    /// Returns when the score is on the disk.
    fn set(&self, name: &str, score: &str) -> io::Result<()> {
        // Only threads of the pool ever wait here, and each that does is replaced.
        let _one_writes = self.writes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.file)?;
        io::Write::write_all(&mut file, format!("{name} {score}\n").as_bytes())?;
        file.sync_data()
    }
}

struct Front {
    scores: Arc<Scores>,
}

impl Handler for Front {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let Ok(line) = String::from_utf8(frame.to_vec()) else { return session.kick(1) };
        let scores = Arc::clone(&self.scores);
        // Answers come in the order of the questions, because no further one is read before this one is answered.
        session.pause();
        session.offload(
            move || match line.split(' ').collect::<Vec<_>>()[..] {
                ["get", name] => scores.get(name).map(|score| score.unwrap_or("nobody".into())),
                ["set", name, score] => scores.set(name, score).map(|()| "done".into()),
                _ => Ok("get NAME, or set NAME SCORE".into()),
            },
            |_front, session, answer| {
                session.resume();
                match answer {
                    Ok(Ok(text)) => session.send(text.as_bytes()),
                    Ok(Err(error)) => session.send(format!("the disk says: {error}").as_bytes()),
                    // Full, for instance: better said at once than late.
                    Err(error) => session.send(format!("not now: {error}").as_bytes()),
                };
            },
        );
    }
}

fn database(address: &str, file: PathBuf) -> anyport::Result<Engine> {
    let scores = Arc::new(Scores { file, writes: std::sync::Mutex::default() });
    // Two may compute; thirty more may sit in a call at the same time.
    let pool = PoolConfig { concurrency: 2, threads: 32, queue_max: 1_000, ..PoolConfig::default() };
    let make = move |_shard| Front { scores: Arc::clone(&scores) };
    Engine::new()?.pool(pool)?.serve(Server::bind(address, Lines::default()), make)
}

fn main() -> anyport::Result<()> {
    println!("listening on 127.0.0.1:7007; `set ann 12`, then `get ann`");
    database("127.0.0.1:7007", std::env::temp_dir().join("anyport-scores.txt"))?.run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpStream,
        time::Duration,
    };

    use super::*;

    #[test]
    fn scores_are_kept_and_answers_are_in_order() {
        let file = std::env::temp_dir().join(format!("anyport-scores-{}.txt", std::process::id()));
        let running = database("127.0.0.1:0", file.clone()).unwrap().start().unwrap();
        let mut stream = TcpStream::connect(running.address(0).unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
            .write_all(b"get ann\nset ann 12\nget ann\nset bob 3\nset ann 13\nget ann\nget bob\nhm\n")
            .unwrap();
        let answers: Vec<_> =
            BufReader::new(stream.try_clone().unwrap()).lines().take(8).map(Result::unwrap).collect();
        let expected = ["nobody", "done", "12", "done", "done", "13", "3", "get NAME, or set NAME SCORE"];
        assert_eq!(answers, expected);
        drop(stream);
        running.stop().unwrap();
        fs::remove_file(file).unwrap();
    }
}
