//! `--squash`: which layers of an image become one.

use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use solver::{Graph, Op, SourceLines, VertexId};

/// What is made into one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Squash {
    /// Nothing.
    Nothing,
    /// All that this build has put on its base image.
    New,
    /// All, the base image included.
    All,
    /// For each of these ranges of lines of the Dockerfile, what its instructions have made.
    Lines(Vec<RangeInclusive<u32>>),
}

impl FromStr for Squash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "new" => return Ok(Self::New),
            "all" => return Ok(Self::All),
            _ => {}
        }
        if let Some(is_on) = frontend::go_bool(text) {
            return Ok(if is_on { Self::New } else { Self::Nothing });
        }
        let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
        for part in text.split(',') {
            let lines = part.split_once('-').map(|(first, last)| (first.trim().parse(), last.trim().parse()));
            let Some((Ok(first), Ok(last))) = lines else {
                return Err(format!("`{part}` is none of `new`, `all`, and lines `FIRST-LAST`"));
            };
            if first > last || ranges.last().is_some_and(|before| *before.end() >= first) {
                return Err(format!("the lines `{part}` should come after the others, and in order"));
            }
            ranges.push(first..=last);
        }
        Ok(Self::Lines(ranges))
    }
}

impl Squash {
    /// Which layers become one: ranges of their numbers, each of at least two. `lines` are those of the instructions that
    /// made the layers above `base_layers`.
    pub(super) fn groups(&self, base_layers: usize, lines: &[Option<SourceLines>]) -> Vec<Range<usize>> {
        let end = base_layers + lines.len();
        let groups = match self {
            Self::Nothing => Vec::new(),
            Self::New => std::iter::once(base_layers..end).collect(),
            Self::All => std::iter::once(0..end).collect(),
            Self::Lines(ranges) => ranges
                .iter()
                .map(|range| {
                    let is_in =
                        |lines: &Option<SourceLines>| lines.is_some_and(|lines| range.contains(&lines.first));
                    let start = lines.iter().position(is_in).unwrap_or(lines.len());
                    let length = lines.iter().skip(start).take_while(|lines| is_in(lines)).count();
                    base_layers + start..base_layers + start + length
                })
                .collect(),
        };
        groups.into_iter().filter(|group| group.len() > 1).collect()
    }
}

/// The lines of the instructions that made the layers of `target` above its base image, from below.
pub(crate) fn lines_of(graph: &Graph, target: VertexId) -> Vec<Option<SourceLines>> {
    let mut lines = Vec::new();
    let mut next = Some(target);
    while let Some(vertex) = next.map(|vertex| graph.vertex(vertex)) {
        if !matches!(vertex.op, Op::Copy(_) | Op::Mkdir(_) | Op::Run(_) | Op::Merge) {
            break;
        }
        lines.push(vertex.meta.lines);
        next = vertex.inputs.first().map(|input| input.vertex);
    }
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_one_is_read() {
        for text in ["new", "true", "1"] {
            assert_eq!(text.parse(), Ok(Squash::New), "{text}");
        }
        assert_eq!("all".parse(), Ok(Squash::All));
        assert_eq!("false".parse(), Ok(Squash::Nothing));
        assert_eq!("2-3,5-9".parse(), Ok(Squash::Lines(vec![2..=3, 5..=9])));
        let error = |text: &str| text.parse::<Squash>().unwrap_err();
        assert_eq!(error("some"), "`some` is none of `new`, `all`, and lines `FIRST-LAST`");
        assert_eq!(error("2-4,4-5"), "the lines `4-5` should come after the others, and in order");
        assert_eq!(error("4-2"), "the lines `4-2` should come after the others, and in order");
    }

    #[test]
    fn layers_are_grouped() {
        let line = |first| Some(SourceLines { first, last: first });
        let lines = [line(2), line(3), line(4), None, line(7), line(9)];
        let groups = |text: &str| {
            let groups = text.parse::<Squash>().unwrap().groups(2, &lines);
            groups.into_iter().map(|group| (group.start, group.end)).collect::<Vec<_>>()
        };
        assert_eq!(groups("new"), [(2, 8)]);
        assert_eq!(groups("all"), [(0, 8)]);
        assert!(groups("false").is_empty());
        assert_eq!(groups("2-3,7-20"), [(2, 4), (6, 8)]);
        assert!(groups("4-5,10-20").is_empty(), "one layer alone, and none");
    }
}
