//! `anyport connect`: to whom, and in which words.

use std::time::Duration;

use super::{CodecName, DriverName, FRAME_SIZE_MAX, in_range, seconds};

pub(crate) const HELP: &str = "\
Each line of input is a message. With --codec lines, delimiter or length-prefix it is the line itself; with
--codec size-kind it is a KIND from 0 to 65535 and a TEXT, like `7 hello`, or a KIND and bytes in hexadecimal,
like `7 #0a0b`; what arrives is printed in the same form. With --codec raw there are no messages: the input goes
out byte for byte, a line that is typed with its line end, and bytes are printed as they come.

On a terminal, lines are edited and kept in a history (arrows up and down; the file `history` in
$XDG_STATE_HOME/anyport, or ~/.local/state/anyport, or %LOCALAPPDATA%\\anyport); what arrives is printed above
the line that is being typed. Ctrl-D ends. Nothing that
arrives can be a command to the terminal, also if only standard output is one.

Without a terminal, all input is sent, and what arrives is printed until the peer ends the connection, or until
the input has ended and nothing has arrived for --wait.

Exit codes:
  0  the input was sent, and the connection ended in order
  1  no connection, one that broke, a line that could not be sent, a second termination signal
  2  the command line is wrong";

#[derive(clap::Args, Debug)]
pub(crate) struct Connect {
    /// The server, HOST:PORT or unix:PATH
    #[arg(value_name = "ADDR")]
    pub(crate) address: String,
    /// Where messages begin and end
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = CodecName::Lines)]
    pub(crate) codec: CodecName,
    /// What to take from the operating system
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = DriverName::Auto)]
    pub(crate) driver: DriverName,
    /// Without a terminal: ends when the input has ended and nothing has arrived for this long
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) wait: Duration,
    /// How long to wait for the connection
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = super::seconds_above_zero)]
    pub(crate) patience: Duration,
    /// Largest frame that is taken, header or line end included [default: 65535]
    #[arg(long, value_name = "BYTES", value_parser = in_range(1..=FRAME_SIZE_MAX))]
    pub(crate) frame_size_max: Option<u64>,
}
