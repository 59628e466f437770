//! Judges captions: for every line `TRUTH-JSON<TAB>CAPTION` on standard input, prints 1 if it is correct, else 0.

use std::io::{BufRead, Write};

use quern_corpus::toy::{Scene, is_correct};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (truth, caption) = line.split_once('\t').ok_or("expected a tab between truth and caption")?;
        let scene: Scene = serde_json::from_str(truth)?;
        writeln!(out, "{}", u8::from(is_correct(caption, &scene)))?;
    }
    Ok(())
}
