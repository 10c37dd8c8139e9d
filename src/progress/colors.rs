//! Which colours the live view has.

/// Colours by what a line is about, each as the parameters of an escape sequence (ECMA-48, SGR); empty for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Palette {
    pub(super) run: String,
    pub(super) cancel: String,
    pub(super) error: String,
    pub(super) warning: String,
    /// Output of steps.
    pub(super) output: String,
}

const NAMES: &[&str] = &["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

impl Palette {
    /// BuildKit's colours.
    pub(crate) fn usual() -> Self {
        let [run, cancel, error, warning, output] = ["34", "33", "31", "33", "2"].map(str::to_owned);
        Self { run, cancel, error, warning, output }
    }

    /// No colours.
    pub(crate) fn none() -> Self {
        let [run, cancel, error, warning, output] = [""; 5].map(str::to_owned);
        Self { run, cancel, error, warning, output }
    }

    /// BuildKit's colours with those that `BUILDKIT_COLORS` sets: `run=green:error=255,0,0`. Parts that mean
    /// nothing are passed over.
    pub(crate) fn read(text: &str) -> Self {
        let mut palette = Self::usual();
        for (name, color) in text.split(':').filter_map(|part| part.split_once('=')) {
            let place = match name.to_ascii_lowercase().as_str() {
                "run" => &mut palette.run,
                "cancel" => &mut palette.cancel,
                "error" => &mut palette.error,
                "warning" => &mut palette.warning,
                _ => continue,
            };
            if let Some(parameters) = parameters(color) {
                *place = parameters;
            }
        }
        palette
    }
}

/// The parameters of a colour: one of the names, or three numbers for red, green and blue.
fn parameters(color: &str) -> Option<String> {
    let color = color.to_ascii_lowercase();
    if color == "default" {
        return Some("39".to_owned());
    }
    let (base, name) = match color.strip_prefix("light-") {
        Some(name) => (90, name),
        None => (30, color.as_str()),
    };
    if let Some(number) = NAMES.iter().position(|known| *known == name) {
        return Some((base + number).to_string());
    }
    let parts: Result<Vec<u8>, _> = color.split(',').map(str::parse).collect();
    match parts.ok()?.as_slice() {
        [red, green, blue] => Some(format!("38;2;{red};{green};{blue}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_buildkits() {
        let palette = Palette::read("run=light-green:WARNING=Default:error=1,2,255:cancel=");
        let [run, cancel, error, warning, output] =
            ["92", "33", "38;2;1;2;255", "39", "2"].map(str::to_owned);
        assert_eq!(palette, Palette { run, cancel, error, warning, output });
        for wrong in ["run", "walk=red", "run=pink", "run=1,2", "run=1,2,256", "run=a=b"] {
            assert_eq!(Palette::read(wrong), Palette::usual(), "{wrong}");
        }
    }
}
