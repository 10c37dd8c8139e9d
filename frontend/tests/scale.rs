//! Long files take time in proportion to their length, and hostile ones end.

mod stub;

use std::fmt::Write as _;

use frontend::fuzz_parse;
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

#[test]
fn hostile_files_end() {
    let mut doubling = "FROM scratch\nENV A=xxxxxxxxxxxxxxxx\n".to_owned();
    for _ in 0..64 {
        doubling.push_str("ENV A=$A$A\nLABEL l=$A\n");
    }
    fuzz_parse(doubling.as_bytes());
    fuzz_parse(format!("FROM a\nENV B={}", "${a:-".repeat(12_000)).as_bytes());
    fuzz_parse(format!("FROM a\nCMD {}", "[".repeat(60_000)).as_bytes());
    fuzz_parse(format!("FROM a\n{} RUN x", "ONBUILD ".repeat(8_000)).as_bytes());
    let stars = "*a".repeat(5_000);
    fuzz_parse(format!("FROM a\nARG V={}\nENV X=${{V//{stars}/b}}", "a".repeat(50_000)).as_bytes());
}
