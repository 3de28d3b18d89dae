//! Numbers of things, in words.

/// A number and its noun, which is in the plural unless the number is 1: `1 peer`, `2 peers`, `2 classes`.
pub fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    // A number too large for 64 bits is not 1 either.
    let count = count.try_into().unwrap_or(u64::MAX);
    let ending = match count {
        1 => "",
        _ if noun.ends_with('s') || noun.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_thing_is_in_the_singular() {
        assert_eq!(counted(0usize, "peer"), "0 peers");
        assert_eq!(counted(1u32, "peer"), "1 peer");
        assert_eq!(counted(2u64, "running statistic"), "2 running statistics");
        assert_eq!([counted(1u64, "class"), counted(2u64, "class")], ["1 class", "2 classes"]);
        assert_eq!([counted(1u64, "batch"), counted(2u64, "batch")], ["1 batch", "2 batches"]);
    }
}
