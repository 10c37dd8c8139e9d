//! Long files take time in proportion to their length, and hostile ones end.

mod stub;

use std::fmt::Write as _;

use frontend::{fuzz_format, fuzz_parse};
use stub::{build, options};

#[test]
fn twenty_thousand_instructions_are_lowered() {
    let mut text = "FROM busybox\n".to_owned();
    for number in 0..5_000 {
        writeln!(
            text,
            "RUN step {number}\nCOPY a{number} /d/\nLABEL l{number}=x\nEXPOSE {}",
            1 + number % 60_000
        )
        .expect("a string takes everything");
    }
    let lowered = build(&text, &options()).expect("the file is right");
    assert_eq!(lowered.graph.vertices().len(), 10_000 + 2);
    assert_eq!(lowered.config.history.len(), 20_000 + 1);
}

fn replay(text: &str) {
    fuzz_parse(text.as_bytes());
    fuzz_format(text.as_bytes());
}

#[test]
fn hostile_files_end() {
    let mut doubling = "FROM scratch\nENV A=xxxxxxxxxxxxxxxx\n".to_owned();
    for _ in 0..64 {
        doubling.push_str("ENV A=$A$A\nLABEL l=$A\n");
    }
    replay(&doubling);
    replay(&format!("FROM a\nENV B={}", "${a:-".repeat(12_000)));
    replay(&format!("FROM a\nCMD {}", "[".repeat(60_000)));
    replay(&format!("FROM a\n{} RUN x", "ONBUILD ".repeat(8_000)));
    let stars = "*a".repeat(5_000);
    replay(&format!("FROM a\nARG V={}\nENV X=${{V//{stars}/b}}", "a".repeat(50_000)));
    replay(&format!("FROM a\nEXPOSE{}", "  1".repeat(20_000)));
    replay(&format!("FROM a\nEXPOSE{}", "  \\\n1".repeat(20_000)));
    replay(&format!("FROM a\nEXPOSE 1{}", "  \\\n".repeat(20_000)));
    replay(&format!("FROM a\nRUN{}", "  \\\nx".repeat(20_000)));
    replay(&format!("FROM a\nCMD [{}\"\"]", "\"\",".repeat(20_000)));
}
