//! Faults everywhere, drawn from a seed.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{Call, Fault, Op};

/// As often in a row as this a call may fail.
const IN_A_ROW: usize = 3;

/// A script by which every second call or so fails, in every way that may pass, but none of them four times in a row. What
/// takes part in an upload in parts, which is sent again as a whole, fails once at most.
pub fn storm(seed: u64) -> impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static {
    move |call| {
        if call.op == Op::Part {
            return (call.before == 1).then_some(Fault::Torn);
        }
        if matches!(call.op, Op::Begin | Op::Complete) && call.before > 0 {
            return None;
        }
        if call.before % (IN_A_ROW + 1) == IN_A_ROW {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (seed, call.op, &call.path, call.before).hash(&mut hasher);
        match hasher.finish() % 10 {
            0 => Some(Fault::Throttled),
            1 => Some(Fault::Failed),
            2 => Some(Fault::Torn),
            3 => Some(Fault::Short),
            4 => Some(Fault::Unanswered),
            _ => None,
        }
    }
}
