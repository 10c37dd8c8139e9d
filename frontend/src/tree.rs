//! The tree of a Dockerfile. Texts are as written, before variables are expanded.

use crate::directive::Directives;
use crate::heredoc::Heredoc;
use crate::{Diagnostic, Span};

/// A Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Dockerfile {
    /// Its name as people are shown it.
    pub name: String,
    /// What its directives say.
    pub directives: Directives,
    /// The ARG instructions before the first FROM.
    pub global_arguments: Vec<Instruction>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// The instructions that are continued over blank lines.
    pub empty_continuations: Vec<EmptyContinuation>,
    /// Everything that is wrong with the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// A piece of text with its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Token {
    /// The text.
    pub text: String,
    /// Where it is.
    pub span: Span,
}

/// An instruction that is continued over blank lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmptyContinuation {
    /// The last line of the instruction, without bodies of here-documents.
    pub last_line: Span,
    /// The blank lines, each with its end.
    pub blank_lines: Vec<Span>,
}

/// FROM and what follows it.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    /// The FROM instruction, all of its lines.
    pub span: Span,
    /// The keyword as it was written.
    pub keyword: Token,
    /// The comments above it, nearest last.
    pub comments: Vec<Token>,
    /// The image or the earlier stage.
    pub base: Token,
    /// The word between image and name, as it was written.
    pub as_keyword: Option<Token>,
    /// The name behind AS, in lower case.
    pub name: Option<Token>,
    /// The same as it was written, valid or not.
    pub written_name: Option<Token>,
    /// `--platform`.
    pub platform: Option<Token>,
    /// The instructions, in order.
    pub instructions: Vec<Instruction>,
}

/// An instruction of a stage, or an ARG before the first.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// All of its lines, here-documents included.
    pub span: Span,
    /// The keyword as it was written.
    pub keyword: Token,
    /// The comments above it, nearest last.
    pub comments: Vec<Token>,
    /// The whole instruction on one line, continuations joined, without bodies of here-documents.
    pub text: String,
    /// What stands behind the keyword and the flags, without bodies of here-documents.
    pub rest: Span,
    /// What it says.
    pub kind: InstructionKind,
}

/// What an instruction says.
#[derive(Debug, Clone)]
pub enum InstructionKind {
    /// ADD.
    Add(Copy),
    /// ARG.
    Arg(Vec<Argument>),
    /// CMD.
    Cmd(Command),
    /// COPY.
    Copy(Copy),
    /// ENTRYPOINT.
    Entrypoint(Command),
    /// ENV.
    Env(Vec<Pair>),
    /// EXPOSE.
    Expose(Vec<Token>),
    /// HEALTHCHECK.
    Healthcheck(oci::Healthcheck),
    /// LABEL.
    Label(Vec<Pair>),
    /// MAINTAINER.
    Maintainer(Token),
    /// ONBUILD: the instruction, bodies of here-documents included.
    Onbuild(Token),
    /// RUN.
    Run(Run),
    /// SHELL.
    Shell(Vec<Token>),
    /// STOPSIGNAL.
    StopSignal(Token),
    /// USER.
    User(Token),
    /// VOLUME.
    Volume(Vec<Token>),
    /// WORKDIR.
    Workdir(Token),
}

/// `name=value` of ENV and LABEL.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The name.
    pub name: Token,
    /// The value, quotes and escapes included.
    pub value: Token,
    /// Whether a blank stands between the two.
    pub is_legacy: bool,
}

/// One name of an ARG.
#[derive(Debug, Clone)]
pub struct Argument {
    /// The name.
    pub name: Token,
    /// The default, quotes and escapes included.
    pub default: Option<Token>,
}

/// What a process is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A JSON list: program and arguments.
    Exec(Vec<Token>),
    /// A line for the shell.
    Shell(Token),
}

/// RUN.
#[derive(Debug, Clone)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// The here-documents that the line announces.
    pub heredocs: Vec<Heredoc>,
    /// `--network`.
    pub network: RunNetwork,
    /// `--security`.
    pub security: solver::SecurityMode,
    /// `--mount`, in order.
    pub mounts: Vec<RunMountOption>,
    /// `--device`, in order.
    pub devices: Vec<RunDevice>,
}

/// `--device` of a RUN.
#[derive(Debug, Clone)]
pub struct RunDevice {
    /// The option as it was written.
    pub text: Token,
    /// `vendor.com/class=name`, `vendor.com/class` for any, `vendor.com/class=*` for all, or an alias.
    pub name: String,
    /// Whether the step fails where the machine has none.
    pub required: bool,
}

/// `--mount` of a RUN.
#[derive(Debug, Clone)]
pub struct RunMountOption {
    /// The option as it was written.
    pub text: Token,
    /// The `from` in it.
    pub from: Option<Token>,
}

/// `--network` of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNetwork {
    /// Whatever the build's options say.
    Default,
    /// The host's.
    Host,
    /// A loopback device alone.
    None,
}

/// COPY and ADD.
#[derive(Debug, Clone, Default)]
pub struct Copy {
    /// The sources that are paths or URLs.
    pub sources: Vec<Token>,
    /// The sources that are here-documents.
    pub heredocs: Vec<Heredoc>,
    /// The destination.
    pub destination: Token,
    /// `--from`.
    pub from: Option<Token>,
    /// `--chown`.
    pub chown: Option<Token>,
    /// `--chmod`.
    pub chmod: Option<Token>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<Token>,
    /// `--unpack` (ADD).
    pub unpack: Option<bool>,
    /// `--checksum` (ADD).
    pub checksum: Option<Token>,
    /// `--keep-git-dir` (ADD).
    pub keep_git_dir: Option<bool>,
}
