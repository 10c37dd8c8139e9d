//! Several layers in one.

use std::ops::Range;

use cache::Snapshot;

use crate::history;
use crate::image::{ImageBuild, LayerOrigin};

impl ImageBuild {
    /// The image with the layers of each group in one. `chain` are the snapshots that the layers make, from below, and
    /// groups are ranges of their numbers, in order and apart from each other.
    ///
    /// History keeps its entries: those of a group have no layer any more, save the last one that had. Layers of the base
    /// image that are in a group are no longer the base image's, and what the image carries as a cache, which names
    /// layers by their numbers, is left out.
    #[must_use]
    pub fn squashed(mut self, chain: &[Snapshot], groups: &[Range<usize>]) -> Self {
        history::agree_with_layers(&mut self.config.history, self.layers.len());
        let is_inner =
            |number: usize| groups.iter().any(|group| group.contains(&number) && number + 1 < group.end);
        let with_layer = self.config.history.iter_mut().filter(|entry| !entry.empty_layer);
        for (_, entry) in with_layer.enumerate().filter(|(number, _)| is_inner(*number)) {
            entry.empty_layer = true;
        }
        let ends = |number: usize| groups.iter().find(|group| group.end == number + 1 && !group.is_empty());
        let mut layers = Vec::new();
        let mut base_layers = 0;
        for (number, layer) in self.layers.into_iter().enumerate().filter(|(number, _)| !is_inner(*number)) {
            layers.push(match (ends(number), chain.get(number)) {
                (Some(group), Some(top)) if group.len() > 1 => LayerOrigin::Merged {
                    below: group.start.checked_sub(1).and_then(|below| chain.get(below)).copied(),
                    top: *top,
                    last: Box::new(layer),
                },
                _ => {
                    base_layers += usize::from(number < self.base_layers);
                    layer
                }
            });
        }
        Self { layers, base_layers, cache: None, ..self }
    }
}
