//! Writes a toy corpus: `synth ROWS JUNK SEED OUT [questions] [distinct] [variants=N] [side=PX]`.

use quern_corpus::toy::{SynthOptions, synth};

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name).map(|n| n.parse().expect("a number")));
    let options = SynthOptions {
        rows: args[0].parse().expect("rows"),
        junk: args[1].parse().expect("junk"),
        seed: args[2].parse().expect("seed"),
        out: args[3].clone(),
        questions: args.contains(&"questions".to_owned()),
        distinct_captions: args.contains(&"distinct".to_owned()),
        variants: number("variants=").unwrap_or(0),
        image_side_px: number("side="),
        ..SynthOptions::default()
    };
    match synth(options, |_| {}).await {
        Ok(summary) => println!("{summary:?}"),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(2);
        }
    }
}
