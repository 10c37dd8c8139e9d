//! `--call` and `--check`: what is told of a Dockerfile without building it.

use std::fmt::Write as _;
use std::path::PathBuf;

use base64::Engine as _;
use frontend::{
    Certainty, Diagnostic, Dockerfile, Edit, Fix, ImageResolver, LowerOptions, Outline, OutlineArgument,
    OutlineMount, SourceFile, Span, Target,
};
use serde_json::{Map, Value, json};

use crate::Answer;
use crate::build::Plan;
use crate::inputs::{self, Definition};
use crate::interrupt::Interrupt;
use crate::report::{Failure, FailureKind};
use crate::resolver::{Remembering, Resolver};
use crate::session::{Session, blocking};
use crate::warnings::{counted, warning_text};

/// How often fixes are made of what the fixes before have left.
const MOST_ROUNDS: usize = 10;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    method: Method,
    format: Format,
    /// Whether broken rules make the program fail.
    status: bool,
    /// Whether what can be fixed without asking is fixed in the file.
    fix: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Check,
    Outline,
    Targets,
    Describe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// The names of `--call`, and what they tell.
const METHODS: [(&str, &str); 4] = [
    ("check", "Lint a Dockerfile"),
    ("outline", "List all parameters current build target supports"),
    ("targets", "List all targets current build supports"),
    ("subrequests.describe", "List available subrequest types"),
];

impl Call {
    /// The value of `--call`; `None` for a build.
    pub(crate) fn read(text: &str, fix: bool) -> Result<Option<Self>, String> {
        let mut format = Format::Text;
        let mut status = true;
        let mut name = None;
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("format", "json")) => format = Format::Json,
                Some(("format", "text" | "")) => format = Format::Text,
                Some(("format", other)) => {
                    return Err(format!("`--call` knows no format `{other}`: it should be `json` or `text`"));
                }
                Some(("ignorestatus", value)) => {
                    let ignored = frontend::go_bool(value);
                    status = !ignored.ok_or_else(|| {
                        format!("invalid value `{value}` for `ignorestatus` in `--call`: it should be `true` or `false`")
                    })?;
                }
                Some((other, _)) => return Err(format!("`--call` knows no option `{other}`")),
                None if field == "ignorestatus" => status = false,
                None if name.is_some() => return Err(format!("invalid value `{text}` for `--call`")),
                None => name = Some(field),
            }
        }
        let method = match name.unwrap_or_default() {
            "build" => None,
            "check" | "lint" => Some(Method::Check),
            "outline" => Some(Method::Outline),
            "targets" => Some(Method::Targets),
            "subrequests.describe" => Some(Method::Describe),
            other => {
                return Err(format!(
                    "`--call` knows no `{other}`: it should be `build`, `check`, `outline` or `targets`"
                ));
            }
        };
        if fix && method != Some(Method::Check) {
            return Err("`--fix` goes with `--check`".to_owned());
        }
        Ok(method.map(|method| Self { method, format, status, fix }))
    }
}

/// What a call works on.
struct Work {
    options: LowerOptions,
    resolver: Resolver,
    definition: Definition,
}

/// Answers a call.
pub(crate) async fn run(
    plan: Plan,
    call: Call,
    (session, root): (Session, PathBuf),
    interrupt: &Interrupt,
) -> Result<Answer, Failure> {
    let json = |value: &Value| Answer::text(pretty(value));
    match call.method {
        Method::Describe => Ok(match call.format {
            Format::Json => json(&describe()),
            Format::Text => Answer::text(describe_text()),
        }),
        Method::Targets => {
            let file = match plan.inputs.definition() {
                Some(definition) => definition.file.clone(),
                None => begin(&plan, (session, root), interrupt).await?.definition.file,
            };
            let targets = frontend::targets(&frontend::parse(&file)).map_err(|list| failed(&file, &list))?;
            Ok(match call.format {
                Format::Json => json(&targets_json(&file, &targets)),
                Format::Text => Answer::text(targets_text(&targets)),
            })
        }
        Method::Outline => {
            let mut work = begin(&plan, (session, root), interrupt).await?;
            let file = work.definition.file;
            let source = file.clone();
            let outline = blocking(move || {
                frontend::outline(&frontend::parse(&source), &work.options, &mut work.resolver)
                    .map_err(|list| (list, work.resolver.hints))
            })
            .await;
            let outline = outline.map_err(|(list, hints)| failed(&file, &list).with_hints(hints))?;
            Ok(match call.format {
                Format::Json => json(&outline_json(&file, &outline)),
                Format::Text => Answer::text(outline_text(&outline)),
            })
        }
        Method::Check => {
            let mut work = begin(&plan, (session, root), interrupt).await?;
            // As with BuildKit, a check is the same whatever the build is for.
            work.options.platform = work.options.build_platform.clone();
            blocking(move || check(call, work)).await
        }
    }
}

async fn begin(
    plan: &Plan,
    (session, root): (Session, PathBuf),
    interrupt: &Interrupt,
) -> Result<Work, Failure> {
    let opened = plan.open(&session, root, interrupt).await?;
    let resolver = plan.resolver(&opened, &session);
    Ok(Work { options: plan.options.clone(), resolver, definition: opened.definition })
}

fn failed(file: &SourceFile, diagnostics: &[Diagnostic]) -> Failure {
    Failure::diagnostics(file, diagnostics)
}

fn check(call: Call, work: Work) -> Result<Answer, Failure> {
    let Work { definition, options, resolver } = work;
    let Definition { mut file, path } = definition;
    let mut resolver = Remembering::new(resolver);
    let mut note = None;
    if call.fix {
        let path = path
            .ok_or_else(|| Failure::usage("`--fix` needs a file: the Dockerfile is from standard input"))?;
        // Style can be mended without the base images.
        resolver.forgives = true;
        let mut findings = find(&file, &options, &mut resolver);
        let before = findings.len();
        let original = file.text.clone();
        for _ in 0..MOST_ROUNDS {
            let Some(text) = frontend::apply_fixes(&file.text, &findings) else { break };
            file.text = text;
            findings = find(&file, &options, &mut resolver);
        }
        resolver.forgives = false;
        if file.text != original {
            inputs::replace_file(&path, &file.text)?;
            let fixed = before.saturating_sub(findings.len());
            note = Some(format!("fixed {} in {}\n", counted(fixed), path.display()));
        }
    }
    let findings = find(&file, &options, &mut resolver);
    Ok(Answer { note, ..answer(&file, &findings, call, resolver.resolver.hints) })
}

fn find(file: &SourceFile, options: &LowerOptions, resolver: &mut dyn ImageResolver) -> Vec<Diagnostic> {
    let dockerfile: Dockerfile = frontend::parse(file);
    frontend::check(&dockerfile, options, resolver)
}

fn answer(file: &SourceFile, findings: &[Diagnostic], call: Call, hints: Vec<String>) -> Answer {
    // BuildKit ends at the first error; what is found behind it is told apart.
    let first_error = findings.iter().position(Diagnostic::is_error);
    let warnings = &findings[..first_error.unwrap_or(findings.len())];
    let error = first_error.map(|at| &findings[at]);
    let text = match call.format {
        Format::Json => pretty(&check_json(file, warnings, error, findings)),
        Format::Text => check_text(file, warnings, error.is_some()),
    };
    let failure = error.map(|_| {
        let errors: Vec<Diagnostic> = findings.iter().filter(|other| other.is_error()).cloned().collect();
        Failure::diagnostics(file, &errors).with_hints(hints)
    });
    let is_wrong = call.status && !warnings.is_empty();
    let code = if is_wrong { FailureKind::Build.exit_code() } else { 0 };
    Answer { text: Some(text), note: None, code, failure }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn check_text(file: &SourceFile, warnings: &[Diagnostic], has_error: bool) -> String {
    let mut text = String::new();
    match warnings.len() {
        0 if has_error => return text,
        0 => return "Check complete, no warnings found.\n".to_owned(),
        1 => text.push_str("Check complete, 1 warning has been found!\n"),
        number => {
            let _ = writeln!(text, "Check complete, {number} warnings have been found!");
        }
    }
    let mut sorted: Vec<&Diagnostic> = warnings.iter().collect();
    sorted.sort_by_key(|warning| warning.span.map_or(0, |span| span.first_line));
    for warning in sorted {
        text += &warning_text(file, warning);
    }
    text
}

/// The answer in BuildKit's form. `code`, `span`, `fix` and `diagnostics` are rbuild's own.
fn check_json(
    file: &SourceFile,
    warnings: &[Diagnostic],
    error: Option<&Diagnostic>,
    findings: &[Diagnostic],
) -> Value {
    let list: Vec<Value> = warnings.iter().map(|warning| warning_json(file, warning)).collect();
    let mut answer = Map::new();
    answer.insert("warnings".to_owned(), if list.is_empty() { Value::Null } else { list.into() });
    let data = encoded(file);
    answer.insert(
        "sources".to_owned(),
        json!([{ "filename": file.name, "data": data, "language": "Dockerfile" }]),
    );
    if let Some(error) = error {
        let mut value = Map::new();
        value.insert("message".to_owned(), error.summary().into());
        value.insert("location".to_owned(), location(error.span));
        add_own(&mut value, file, error);
        answer.insert("buildError".to_owned(), value.into());
    }
    let mut sorted: Vec<&Diagnostic> = findings.iter().collect();
    sorted.sort_by_key(|diagnostic| diagnostic.place().map_or(0, |span| span.start));
    let all: Vec<Value> = sorted.into_iter().map(|diagnostic| diagnostic_json(file, diagnostic)).collect();
    answer.insert("diagnostics".to_owned(), all.into());
    answer.into()
}

fn warning_json(file: &SourceFile, warning: &Diagnostic) -> Value {
    let mut value = Map::new();
    value.insert("ruleName".to_owned(), warning.code.into());
    if let Some(rule) = warning.rule {
        value.insert("description".to_owned(), rule.description().into());
        value.extend(rule.url().map(|url| ("url".to_owned(), url.into())));
    }
    value.insert("detail".to_owned(), warning.message.clone().into());
    value.insert("location".to_owned(), location(warning.span));
    add_own(&mut value, file, warning);
    value.into()
}

fn diagnostic_json(file: &SourceFile, diagnostic: &Diagnostic) -> Value {
    let severity = if diagnostic.is_error() { "error" } else { "warning" };
    let mut value = Map::new();
    value.insert("severity".to_owned(), severity.into());
    value.insert("message".to_owned(), diagnostic.message.clone().into());
    add_own(&mut value, file, diagnostic);
    value.extend(diagnostic.help.clone().map(|help| ("help".to_owned(), help.into())));
    value.into()
}

fn add_own(value: &mut Map<String, Value>, file: &SourceFile, diagnostic: &Diagnostic) {
    value.insert("code".to_owned(), diagnostic.code.into());
    value.extend(diagnostic.place().map(|place| ("span".to_owned(), span_json(file, place))));
    value.extend(diagnostic.fix.as_deref().map(|fix| ("fix".to_owned(), fix_json(file, fix))));
}

fn span_json(file: &SourceFile, span: Span) -> Value {
    let position = |offset| {
        let frontend::Position { offset, line, column } = file.position(offset);
        json!({ "offset": offset, "line": line, "column": column })
    };
    json!({ "start": position(span.start), "end": position(span.end) })
}

fn fix_json(file: &SourceFile, fix: &Fix) -> Value {
    let edit = |edit: &Edit| json!({ "span": span_json(file, edit.span), "replacement": edit.replacement });
    let edits: Vec<Value> = fix.edits.iter().map(edit).collect();
    json!({ "title": fix.title, "certain": fix.certainty == Certainty::Certain, "edits": edits })
}

/// Lines in BuildKit's form: a range for each.
fn location(span: Option<Span>) -> Value {
    let Some(span) = span else { return json!({}) };
    let line = |line: u32| json!({ "start": { "line": line }, "end": { "line": line } });
    let ranges: Vec<Value> = (span.first_line..=span.last_line).map(line).collect();
    json!({ "ranges": ranges })
}

fn encoded(file: &SourceFile) -> String {
    base64::engine::general_purpose::STANDARD.encode(&file.text)
}

fn object(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect())
}

fn not_empty(list: Vec<Value>) -> Option<Value> {
    (!list.is_empty()).then(|| list.into())
}

fn outline_json(file: &SourceFile, outline: &Outline) -> Value {
    let argument = |argument: &OutlineArgument| {
        let value = Some(argument.value.clone()).filter(|value| !value.is_empty());
        object([
            ("name", Some(argument.name.clone().into())),
            ("description", argument.description.clone().map(Value::from)),
            ("value", value.map(Value::from)),
            ("location", Some(location(Some(argument.span)))),
        ])
    };
    let mount = |mount: &OutlineMount| {
        object([
            ("name", Some(mount.id.clone().into())),
            ("required", mount.required.then_some(Value::Bool(true))),
            ("location", Some(location(Some(mount.span)))),
        ])
    };
    object([
        ("name", outline.name.clone().map(Value::from)),
        ("description", outline.description.clone().map(Value::from)),
        ("args", not_empty(outline.arguments.iter().map(argument).collect())),
        ("secrets", not_empty(outline.secrets.iter().map(mount).collect())),
        ("ssh", not_empty(outline.ssh.iter().map(mount).collect())),
        ("sources", Some(json!([encoded(file)]))),
    ])
}

fn targets_json(file: &SourceFile, targets: &[Target]) -> Value {
    let target = |target: &Target| {
        object([
            ("name", target.name.clone().map(Value::from)),
            ("default", target.is_default.then_some(Value::Bool(true))),
            ("description", target.description.clone().map(Value::from)),
            ("base", Some(target.base.clone().into())),
            ("platform", target.platform.clone().map(Value::from)),
            ("location", Some(location(Some(target.span)))),
        ])
    };
    let list: Vec<Value> = targets.iter().map(target).collect();
    json!({ "targets": list, "sources": [encoded(file)] })
}

fn describe() -> Value {
    let request = |(name, description): (&str, &str)| {
        let name = match name {
            "check" => "frontend.lint".to_owned(),
            "outline" | "targets" => format!("frontend.{name}"),
            other => format!("frontend.{other}"),
        };
        json!({ "name": name, "version": "1.0.0", "type": "rpc", "description": description })
    };
    METHODS.map(request).to_vec().into()
}

fn describe_text() -> String {
    let rows = METHODS.map(|(name, description)| [name, "1.0.0", description].map(str::to_owned));
    table(&["NAME", "VERSION", "DESCRIPTION"], &rows)
}

fn outline_text(outline: &Outline) -> String {
    let mut parts = Vec::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let mut text = format!("TARGET:      {name}\n");
        if let Some(description) = &outline.description {
            let _ = writeln!(text, "DESCRIPTION: {description}");
        }
        parts.push(text);
    }
    if !outline.arguments.is_empty() {
        let rows: Vec<[String; 3]> = outline
            .arguments
            .iter()
            .map(|argument| {
                let description = argument.description.clone().unwrap_or_default();
                [argument.name.clone(), argument.value.clone(), description]
            })
            .collect();
        parts.push(table(&["BUILD ARG", "VALUE", "DESCRIPTION"], &rows));
    }
    for (heading, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !mounts.is_empty() {
            let required =
                |mount: &OutlineMount| if mount.required { "true".to_owned() } else { String::new() };
            let rows: Vec<[String; 2]> =
                mounts.iter().map(|mount| [mount.id.clone(), required(mount)]).collect();
            parts.push(table(&[heading, "REQUIRED"], &rows));
        }
    }
    parts.join("\n")
}

fn targets_text(targets: &[Target]) -> String {
    let rows: Vec<[String; 2]> = targets
        .iter()
        .map(|target| {
            let name = match (&target.name, target.is_default) {
                (Some(name), true) => format!("{name} (default)"),
                (Some(name), false) => name.clone(),
                (None, true) => "(default)".to_owned(),
                (None, false) => String::new(),
            };
            [name, target.description.clone().unwrap_or_default()]
        })
        .collect();
    table(&["TARGET", "DESCRIPTION"], &rows)
}

/// Columns as wide as their widest cell and three blanks.
fn table<const N: usize>(headings: &[&str; N], rows: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([headings[column].chars().count()]).max().unwrap_or_default()
        })
        .collect();
    let line = |cells: [&str; N]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}   ");
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(*headings);
    for row in rows {
        text += &line(row.each_ref().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read() {
        let read = |text| Call::read(text, false);
        assert_eq!(read("build"), Ok(None));
        let call = read("check,format=json").unwrap().unwrap();
        assert_eq!((call.method, call.format, call.status), (Method::Check, Format::Json, true));
        let call = read("lint,ignorestatus=true").unwrap().unwrap();
        assert_eq!((call.method, call.format, call.status), (Method::Check, Format::Text, false));
        assert!(read("check,ignorestatus=F").unwrap().unwrap().status);
        assert!(read("check,ignorestatus=no").unwrap_err().contains("`no`"));
        assert_eq!(read("outline").unwrap().unwrap().method, Method::Outline);
        for (text, wanted) in [
            ("chek", "`--call` knows no `chek`: it should be `build`, `check`, `outline` or `targets`"),
            ("check,format=xml", "`--call` knows no format `xml`: it should be `json` or `text`"),
            ("check,colour=1", "`--call` knows no option `colour`"),
            ("check,targets", "invalid value `check,targets` for `--call`"),
        ] {
            assert_eq!(read(text).unwrap_err(), wanted);
        }
        assert_eq!(Call::read("outline", true).unwrap_err(), "`--fix` goes with `--check`");
    }

    #[test]
    fn tables_have_columns() {
        let rows = [["a".to_owned(), String::new()], ["é (default)".to_owned(), "x".to_owned()]];
        let wanted = "TARGET        DESCRIPTION\na\né (default)   x\n";
        assert_eq!(table(&["TARGET", "DESCRIPTION"], &rows), wanted);
    }
}
