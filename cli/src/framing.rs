//! Framings that have more to say than a name on the command line can: what ours look like.

use anyport::{Delimiter, LengthPrefix, LengthWidth};

use crate::exit::{Failure, Outcome};

/// `--codec delimiter`: frames that end with a zero byte.
pub(crate) fn zero_ended(frame_size_max: usize) -> Delimiter {
    Delimiter::new([0], frame_size_max)
}

/// `--codec length-prefix`: 32 bits in network order.
pub(crate) fn length_prefix(frame_size_max: usize) -> Outcome<LengthPrefix> {
    let wrong =
        |_| Failure::Usage("--frame-size-max must be at least 4 with --codec length-prefix".to_owned());
    LengthPrefix::builder(LengthWidth::U32).frame_size_max(frame_size_max).try_build().map_err(wrong)
}
