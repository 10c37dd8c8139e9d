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

/// FROM and what follows it.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    /// The FROM instruction, all of its lines.
    pub span: Span,
    /// The image or the earlier stage.
    pub base: Token,
    /// The name behind AS, in lower case.
    pub name: Option<Token>,
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
    /// The whole instruction on one line, continuations joined, without bodies of here-documents.
    pub text: String,
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
    Maintainer(String),
    /// ONBUILD: the instruction, bodies of here-documents included.
    Onbuild(String),
    /// RUN.
    Run(Run),
    /// SHELL.
    Shell(Vec<String>),
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
    Exec(Vec<String>),
    /// A line for the shell.
    Shell(String),
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
    /// `--mount`, each as written.
    pub mounts: Vec<Token>,
    /// `--device`, each as written.
    pub devices: Vec<Token>,
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
