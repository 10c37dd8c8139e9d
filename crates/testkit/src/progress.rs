//! What `--progress=plain` tells.

/// The instruction of each step that was looked at, and whether it was found in the cache. What loads base images and
/// contexts is no step.
pub fn steps(log: &str) -> Vec<(String, bool)> {
    let mut found: Vec<(&str, &str, bool)> = Vec::new();
    for line in log.lines().filter_map(|line| line.strip_prefix('#')) {
        let Some((number, rest)) = line.split_once(' ') else { continue };
        if let Some(step) = found.iter_mut().find(|(known, ..)| *known == number) {
            step.2 |= rest == "CACHED";
        } else if let Some((head, instruction)) =
            rest.strip_prefix('[').and_then(|rest| rest.split_once("] "))
        {
            // `build 2/5`, `linux/arm64 build 2/5`; `linux/arm64 internal` is none.
            let place = head.rsplit(' ').next().unwrap_or_default();
            let is_step = place.contains('/') && !instruction.starts_with("FROM ");
            if is_step {
                found.push((number, instruction, false));
            }
        }
    }
    found.into_iter().map(|(_, name, cached)| (name.to_owned(), cached)).collect()
}
