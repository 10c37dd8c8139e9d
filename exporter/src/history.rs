//! The times in an image config, as BuildKit fills them in.

use jiff::Timestamp;
use oci::{History, ImageConfig};

/// What is known of the time at which a layer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerTime {
    /// Nanoseconds since 1970.
    Made(i64),
    /// It is a base image's, whose history tells or does not.
    Unknown,
}

impl LayerTime {
    /// The time of an annotation, RFC 3339.
    pub(crate) fn of_text(text: &str) -> Self {
        let nanoseconds =
            text.parse::<Timestamp>().ok().and_then(|time| i64::try_from(time.as_nanosecond()).ok());
        nanoseconds.map_or(Self::Unknown, Self::Made)
    }
}

/// The time of a layer, not later than the epoch (seconds since 1970) if there is one.
pub(crate) fn time_text(time: LayerTime, epoch: Option<i64>) -> Option<String> {
    let LayerTime::Made(nanoseconds) = time else { return None };
    let latest = epoch.map_or(i128::MAX, |seconds| i128::from(seconds) * 1_000_000_000);
    Some(text_of(i128::from(nanoseconds).min(latest)))
}

/// Comment of history entries that stand for layers nothing else tells of.
const EXPORTER_COMMENT: &str = "buildkit.exporter.image.v0";

/// Makes history and layers agree and fills in times.
///
/// An entry with a layer gets the layer's time; one without gets that of the first layer that this build made, or of
/// the layer before it. With an epoch (seconds since 1970), times that this build fills in are not later than that.
/// The image was created when its last entry was, or at the epoch.
pub(crate) fn complete(config: &mut ImageConfig, layers: &[LayerTime], epoch: Option<i64>) {
    agree_with_layers(&mut config.history, layers.len());
    let epoch = epoch.map(|seconds| text_of(i128::from(seconds) * 1_000_000_000));
    let ours: Vec<bool> = config.history.iter().map(|entry| entry.created.is_none()).collect();
    fill_layer_times(&mut config.history, layers);
    fill_other_times(&mut config.history);
    if let Some(epoch) = &epoch {
        for (entry, _) in config.history.iter_mut().zip(&ours).filter(|(_, ours)| **ours) {
            if entry.created.as_deref().is_none_or(|created| is_later(created, epoch)) {
                entry.created = Some(epoch.clone());
            }
        }
    }
    config.created = epoch.or_else(|| config.history.iter().rev().find_map(|entry| entry.created.clone()));
}

/// Entries that claim more layers than there are lose their claim; layers that no entry tells of get one.
pub(crate) fn agree_with_layers(history: &mut Vec<History>, layers: usize) {
    let mut claimed = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if claimed == layers {
            entry.empty_layer = true;
        } else {
            claimed += 1;
        }
    }
    for _ in claimed..layers {
        history.push(History { comment: Some(EXPORTER_COMMENT.to_owned()), ..History::default() });
    }
}

fn fill_layer_times(history: &mut [History], layers: &[LayerTime]) {
    let entries = history.iter_mut().filter(|entry| !entry.empty_layer);
    for (entry, layer) in entries.zip(layers) {
        if let (None, LayerTime::Made(nanoseconds)) = (&entry.created, layer) {
            entry.created = Some(text_of(i128::from(*nanoseconds)));
        }
    }
}

fn fill_other_times(history: &mut [History]) {
    let first_open = history.iter().position(|entry| entry.created.is_none()).unwrap_or(history.len());
    let after = history[first_open..].iter().find_map(|entry| entry.created.clone());
    let before = history[..first_open].iter().rev().find_map(|entry| entry.created.clone());
    let mut last = after.or(before);
    for entry in &mut history[first_open..] {
        match &entry.created {
            Some(created) => last = Some(created.clone()),
            None => entry.created.clone_from(&last),
        }
    }
}

/// RFC 3339 in UTC with as many digits of the second as are needed, which is how Go writes times.
fn text_of(nanoseconds: i128) -> String {
    let bounded = nanoseconds.clamp(Timestamp::MIN.as_nanosecond(), Timestamp::MAX.as_nanosecond());
    Timestamp::from_nanosecond(bounded).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn is_later(time: &str, than: &str) -> bool {
    match (time.parse::<Timestamp>(), than.parse::<Timestamp>()) {
        (Ok(time), Ok(than)) => time > than,
        // A time that cannot be read is the base image's own affair.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// `L` and `-` are entries of this build with and without a layer; `l`, `m` the base image's, of second 1.
    fn history(shape: &str) -> ImageConfig {
        let entry = |kind| History {
            created: matches!(kind, 'l' | 'm').then(|| "1970-01-01T00:00:01Z".to_owned()),
            empty_layer: matches!(kind, '-' | 'm'),
            ..History::default()
        };
        ImageConfig { history: shape.chars().map(entry).collect(), ..ImageConfig::default() }
    }

    fn seconds(config: &ImageConfig) -> Vec<i64> {
        let second = |entry: &History| {
            let created = entry.created.as_deref();
            created.map_or(-1, |created| created.parse::<Timestamp>().unwrap().as_second())
        };
        config.history.iter().map(second).collect()
    }

    #[test]
    fn entries_take_the_time_of_their_layer_or_of_the_one_before() {
        let made = |second: i64| LayerTime::Made(second * SECOND);
        let cases: [(&str, Vec<LayerTime>, Vec<i64>); 6] = [
            ("lm-L-L-", vec![LayerTime::Unknown, made(5), made(7)], vec![1, 1, 5, 5, 5, 7, 7]),
            ("lm--", vec![LayerTime::Unknown], vec![1, 1, 1, 1]),
            ("--", vec![], vec![-1, -1]),
            ("L", vec![made(3)], vec![3]),
            // More entries than layers, and fewer.
            ("LL", vec![made(3)], vec![3, 3]),
            ("-", vec![made(3)], vec![3, 3]),
        ];
        for (shape, layers, expected) in cases {
            let mut config = history(shape);
            complete(&mut config, &layers, None);
            assert_eq!(seconds(&config), expected, "{shape}");
            let with_layer = config.history.iter().filter(|entry| !entry.empty_layer).count();
            assert_eq!(with_layer, layers.len(), "{shape}");
            assert_eq!(config.created, config.history.last().and_then(|entry| entry.created.clone()));
        }
    }

    #[test]
    fn an_epoch_bounds_what_this_build_fills_in() {
        let mut config = history("l-LL");
        let layers = [LayerTime::Unknown, LayerTime::Made(SECOND / 2), LayerTime::Made(9 * SECOND)];
        complete(&mut config, &layers, Some(0));
        assert_eq!(seconds(&config), [1, 0, 0, 0]);
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn times_of_layers_survive_as_text() {
        let made = LayerTime::Made(1_234_567_890_123_456_789);
        let text = time_text(made, None).unwrap();
        assert_eq!(text, "2009-02-13T23:31:30.123456789Z");
        assert_eq!(LayerTime::of_text(&text), made);
        assert_eq!(time_text(made, Some(7)).as_deref(), Some("1970-01-01T00:00:07Z"));
        assert_eq!(time_text(LayerTime::Unknown, Some(7)), None);
        assert_eq!(LayerTime::of_text("yesterday"), LayerTime::Unknown);
    }

    #[test]
    fn fractions_are_written_as_go_does() {
        assert_eq!(text_of(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(text_of(1), "1970-01-01T00:00:00.000000001Z");
    }
}
