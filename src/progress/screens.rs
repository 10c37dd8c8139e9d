//! What the live view looks like, as a terminal shows it.

use std::num::NonZero;
use std::time::{Duration, Instant};

use solver::LogStream;

use super::colors::Palette;
use super::frame::{self, Extent, Outcome, Size};
use super::limits::LogLimits;
use super::model::{DetailKind, Ending, Model};
use super::painter::Painter;

const LOG_LINES: usize = 3;

fn short(number: usize) -> NonZero<u16> {
    u16::try_from(number).ok().and_then(NonZero::new).expect("terminals are small")
}

/// A build before a terminal.
struct Scene {
    model: Model,
    now: Instant,
    painter: Painter,
    terminal: vt100::Parser,
    size: Size,
}

impl Scene {
    fn new(rows: usize, columns: usize) -> Self {
        let model = Model::new(LogLimits::default(), LOG_LINES);
        Self {
            now: model.begun,
            model,
            painter: Painter::new(Palette::usual()),
            terminal: vt100::Parser::new(short(rows), short(columns), 100),
            size: Size { rows, columns },
        }
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    fn start(&mut self, name: &str) -> usize {
        let number = self.model.add(name);
        self.model.start(number, self.now);
        number
    }

    fn end(&mut self, number: usize, how: Ending) {
        self.model.end(number, how, None, self.now);
    }

    fn writes(&mut self, number: usize, data: &str) {
        let step = &mut self.model.steps[number];
        step.output.take((number + 1, Duration::ZERO), LogStream::Stdout, data.as_bytes());
    }

    fn transfers(&mut self, number: usize, name: &str, current: u64, total: u64) {
        let kind = DetailKind::Transfer { current, total: Some(total) };
        self.model.detail(number, name, kind, self.now);
    }

    fn resize(&mut self, rows: usize, columns: usize) {
        self.terminal.screen_mut().set_size(short(rows), short(columns));
        self.size = Size { rows, columns };
    }

    fn prints(&mut self, text: &str) {
        self.terminal.process(text.replace('\n', "\r\n").as_bytes());
    }

    fn draw(&mut self, extent: Extent) -> String {
        let picture = frame::frame(&self.model, self.now, self.size, LOG_LINES, extent);
        let bytes = self.painter.paint(&picture, self.size);
        self.terminal.process(bytes.as_bytes());
        bytes
    }

    /// What is on the terminal now.
    fn sees(&mut self) -> String {
        self.draw(Extent::Screen);
        self.screen()
    }

    fn screen(&self) -> String {
        let columns = self.terminal.screen().size().1;
        let rows: Vec<String> =
            self.terminal.screen().rows(0, columns.get()).map(|row| row.trim_end().to_owned()).collect();
        rows.join("\n").trim_end().to_owned()
    }
}

#[track_caller]
fn shows(screen: &str, expected: &str) {
    let expected: Vec<&str> = expected.trim_matches('\n').lines().collect();
    assert_eq!(screen.lines().collect::<Vec<_>>(), expected, "\n{screen}\n");
}

fn parallel(rows: usize, columns: usize) -> Scene {
    let mut scene = Scene::new(rows, columns);
    let load = scene.start("[internal] load build definition from Dockerfile");
    scene.end(load, Ending::Done);
    let cached = scene.start("[a 1/3] WORKDIR /src");
    scene.end(cached, Ending::Cached);
    let pull = scene.start("[b 1/2] FROM docker.io/library/alpine:3.20");
    scene.transfers(pull, "sha256:0123456789abcdef", 12_300_000, 45_000_000);
    let make = scene.start("[a 2/3] RUN make\tall");
    scene.wait(1234);
    scene.writes(
        make,
        "cc -c a.c\ncc -c b.c\ncc -c c.c\n\u{1b}[31mcc -c\u{1b}[2J d.c\u{1b}[0m\nlinking  10%\rlinking  90%",
    );
    scene
}

#[test]
fn steps_run_side_by_side() {
    let mut scene = parallel(14, 60);
    let expected = "
[+] Building 1.2s (2/4)
 => [internal] load build definition from Dockerfile   0.0s
 => CACHED [a 1/3] WORKDIR /src                        0.0s
 => [b 1/2] FROM docker.io/library/alpine:3.20         1.2s
 => => sha256:0123456789abcdef 12.30MB / 45.00MB       1.2s
 => [a 2/3] RUN make all                               1.2s
 => => # cc -c c.c
 => => # cc -c d.c
 => => # linking  90%";
    shows(&scene.sees(), expected);
    // Nothing is left of what a picture before had.
    scene.end(2, Ending::Done);
    scene.end(3, Ending::Failed("exit code: 2".to_owned()));
    let last = scene.start("x");
    scene.end(last, Ending::Canceled);
    scene.draw(Extent::Whole(Outcome::Failure));
    scene.prints("------\n");
    let expected = "
[+] Building 1.2s (5/5)
 => [internal] load build definition from Dockerfile   0.0s
 => CACHED [a 1/3] WORKDIR /src                        0.0s
 => [b 1/2] FROM docker.io/library/alpine:3.20         1.2s
 => => sha256:0123456789abcdef 12.30MB / 45.00MB       1.2s
 => ERROR [a 2/3] RUN make all                         1.2s
 => CANCELED x                                         0.0s
------";
    shows(&scene.screen(), expected);
    let color = |row| scene.terminal.screen().cell(row, 5).expect("a cell").fgcolor();
    let colors = [0, 1, 5, 6].map(color);
    assert_eq!(
        colors,
        [vt100::Color::Default, vt100::Color::Idx(4), vt100::Color::Idx(1), vt100::Color::Idx(3)]
    );
    assert!(!scene.terminal.screen().hide_cursor());
}

#[test]
fn whoever_asks_for_none_gets_no_colors() {
    let mut scene = parallel(14, 60);
    scene.painter = Painter::new(Palette::none());
    let bytes = scene.draw(Extent::Screen);
    assert!(!bytes.contains("m =>"), "{bytes:?}");
}

#[test]
fn narrow_terminals_have_less() {
    let mut scene = parallel(14, 34);
    let expected = "
[+] Building 1.2s (2/4)
 => [internal] load build de 0.0s
 => CACHED [a 1/3] WORKDIR / 0.0s
 => [b 1/2] FROM docker.io/l 1.2s
 => => sha256:0123456789abcd 1.2s
 => [a 2/3] RUN make all     1.2s
 => => # cc -c c.c
 => => # cc -c d.c
 => => # linking  90%";
    shows(&scene.sees(), expected);
    let mut scene = parallel(14, 12);
    let expected = "
[+] Buildin
[internal]
CACHED [a 1
[b 1/2] FRO
=> sha256:0
[a 2/3] RUN
# cc -c c.c
# cc -c d.c
# linking";
    shows(&scene.sees(), expected);
    for columns in 0..4 {
        let scene = parallel(5, 80);
        let size = Size { rows: columns, columns };
        let picture = frame::frame(&scene.model, scene.now, size, LOG_LINES, Extent::Screen);
        assert!(picture.iter().all(|line| line.columns <= columns));
    }
}

#[test]
fn a_low_terminal_has_what_runs() {
    let mut scene = parallel(8, 60);
    let expected = "
[+] Building 1.2s (2/4)
 => [b 1/2] FROM docker.io/library/alpine:3.20         1.2s
 => => sha256:0123456789abcdef 12.30MB / 45.00MB       1.2s
 => [a 2/3] RUN make all                               1.2s
 => => # cc -c c.c
 => => # cc -c d.c
 => => # linking  90%";
    shows(&scene.sees(), expected);
    let mut scene = parallel(3, 60);
    let expected = "
[+] Building 1.2s (2/4)
 => 2 more steps are running";
    shows(&scene.sees(), expected);
}

#[test]
fn many_steps_leave_room_for_those_that_run() {
    let mut scene = Scene::new(9, 50);
    for number in 0..100 {
        let step = scene.start(&format!("[{number}/200] RUN step {number}"));
        scene.wait(100);
        if number % 40 != 1 {
            scene.end(step, Ending::Done);
        }
    }
    let expected = "
[+] Building 10.0s (97/100)
 => 94 more steps have ended
 => [1/200] RUN step 1                       9.9s
 => [41/200] RUN step 41                     5.9s
 => [81/200] RUN step 81                     1.9s
 => [97/200] RUN step 97                     0.1s
 => [98/200] RUN step 98                     0.1s
 => [99/200] RUN step 99                     0.1s";
    shows(&scene.sees(), expected);
    // All of it stays, beyond the upper edge, and what comes stands beneath.
    for number in [1, 41, 81] {
        scene.end(number, Ending::Done);
    }
    scene.draw(Extent::Whole(Outcome::Success));
    scene.prints("Built\n");
    assert!(scene.screen().ends_with(" 0.1s\nBuilt"), "{}", scene.screen());
    scene.terminal.screen_mut().set_scrollback(94);
    let screen = scene.screen();
    assert!(screen.starts_with("[+] Building 10.0s (100/100) FINISHED\n => [0/200]"), "{screen}");
}

#[test]
fn wide_characters_are_counted() {
    let mut scene = Scene::new(6, 40);
    let step = scene.start("[1/2] RUN echo 日本語日本語日本語日本語日本語");
    scene.writes(step, "日本語日本語日本語日本語日本語日本語日本語\n");
    let expected = "
[+] Building 0.0s (0/1)
 => [1/2] RUN echo 日本語日本語日  0.0s
 => => # 日本語日本語日本語日本語日本語";
    shows(&scene.sees(), expected);
}

#[test]
fn a_picture_takes_the_place_of_the_last_one() {
    let mut scene = parallel(14, 60);
    scene.prints("$ rbuild .\n");
    scene.sees();
    scene.resize(20, 80);
    let screen = scene.sees();
    assert!(screen.starts_with("$ rbuild .\n[+] Building"), "{screen}");
    assert_eq!(screen.matches("[+]").count(), 1, "{screen}");
    // Something is told meanwhile.
    let cleared = scene.painter.clear(scene.size);
    scene.prints(&cleared);
    assert_eq!(scene.screen(), "$ rbuild .");
    scene.prints("a breakpoint\n");
    let screen = scene.sees();
    assert!(screen.starts_with("$ rbuild .\na breakpoint\n[+] Building"), "{screen}");
    // Terminals wrap lines when they become narrower: each of those with a time takes two rows then, and three do not.
    let before = scene.draw(Extent::Screen);
    assert!(before.contains("\u{1b}[9A"), "{before:?}");
    scene.resize(20, 45);
    let after = scene.draw(Extent::Screen);
    assert!(after.contains("\u{1b}[14A"), "{after:?}");
}
