//! The journal's records, and the acceptances that are kept beside the output, a line each.

use quern_fuzz::Target;
use quern_machine::{Acceptance, Record};

#[test]
fn records() {
    Target::new("records").cases(3000).run(|bytes| {
        for line in bytes.split(|&byte| byte == b'\n') {
            if let Ok(record) = serde_json::from_slice::<Record>(line) {
                let text = serde_json::to_string(&record).expect("a record is written");
                assert_eq!(serde_json::from_str::<Record>(&text).expect("and read again"), record);
            }
            let _ = serde_json::from_slice::<Acceptance>(line);
        }
    });
}
