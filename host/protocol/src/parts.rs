//! Parts of a contribution, each of which can be verified by itself against the hash that was announced.
//!
//! The hash of a contribution is BLAKE3 of its values as little-endian floats, and BLAKE3 is a tree: the chaining values of
//! the subtrees beside the path from a part to the root prove that the part belongs to it. So a member may fetch parts from
//! several others at once, and notices at the first wrong part who served it. See section 2.1 of the BLAKE3 paper.

use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use skein_types::Digest;

/// Bytes of a part but for the last: a power of two, as subtrees are.
pub const PART_BYTES: usize = 1 << 20;

/// Most subtrees beside a path: those of 2^64 bytes.
const DEPTH_MAX: usize = 44;

/// What proves that a part belongs to a contribution: the chaining values of the subtrees beside its path, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartProof(Vec<Digest>);

impl PartProof {
    /// The chaining values as bytes, 32 each.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|value| value.0).collect()
    }

    /// Reads what [`PartProof::encode`] wrote; `None` if it is anything else.
    pub fn decode(bytes: &[u8]) -> Option<PartProof> {
        let (values, rest) = bytes.as_chunks::<32>();
        let is_sound = rest.is_empty() && values.len() <= DEPTH_MAX;
        is_sound.then(|| PartProof(values.iter().map(|value| Digest(*value)).collect()))
    }
}

/// The number of parts of a contribution of `len` bytes: at least one.
pub fn count(len: usize) -> usize {
    len.div_ceil(PART_BYTES).max(1)
}

/// Where a part lies in a contribution of `len` bytes; `None` if there is no such part.
pub fn range(len: usize, part: usize) -> Option<Range<usize>> {
    let begin = part.checked_mul(PART_BYTES)?;
    (part < count(len)).then(|| begin..len.min(begin + PART_BYTES))
}

/// Proves that a part belongs to the contribution `bytes`. It hashes all that is not in the part.
///
/// # Panics
/// If there is no such part.
pub fn prove(bytes: &[u8], part: usize) -> PartProof {
    let part = range(bytes.len(), part).expect("a part of the contribution");
    let beside = beside(bytes.len(), &part).into_iter().rev();
    PartProof(beside.map(|subtree| Digest(chaining_value(&bytes[subtree.clone()], subtree.start))).collect())
}

/// Whether `bytes` are that part of the contribution with the hash `root`, which has `len` bytes. The length is that of the
/// model, which all members know: only the last part would show another one.
pub fn is_part(root: Digest, len: usize, part: usize, bytes: &[u8], proof: &PartProof) -> bool {
    let Some(part) = range(len, part).filter(|part| part.len() == bytes.len()) else { return false };
    let beside = beside(len, &part);
    if beside.len() != proof.0.len() {
        return false;
    }
    if beside.is_empty() {
        return blake3::hash(bytes) == blake3::Hash::from_bytes(root.0);
    }
    let mut value = chaining_value(bytes, part.start);
    // From the lowest subtree up; the outermost, which was found first, is merged last.
    for (depth, (subtree, other)) in beside.iter().zip(proof.0.iter().rev()).enumerate().rev() {
        let is_left = subtree.start < part.start;
        let (left, right) = if is_left { (other.0, value) } else { (value, other.0) };
        if depth == 0 {
            return merge_subtrees_root(&left, &right, Mode::Hash) == blake3::Hash::from_bytes(root.0);
        }
        value = merge_subtrees_non_root(&left, &right, Mode::Hash);
    }
    false
}

fn chaining_value(bytes: &[u8], offset: usize) -> [u8; 32] {
    blake3::Hasher::new().set_input_offset(offset as u64).update(bytes).finalize_non_root()
}

/// The subtrees beside the path to a part, the outermost first.
fn beside(len: usize, part: &Range<usize>) -> Vec<Range<usize>> {
    let mut beside = Vec::new();
    let mut around = 0..len;
    while around.len() > PART_BYTES {
        let middle = around.start + left_subtree_len(around.len() as u64) as usize;
        if part.start < middle {
            beside.push(middle..around.end);
            around.end = middle;
        } else {
            beside.push(around.start..middle);
            around.start = middle;
        }
    }
    debug_assert_eq!(around, *part, "a part is a subtree");
    beside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contribution(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index / 3 + index / 1000) as u8).collect()
    }

    const LENGTHS: [usize; 9] = [
        0,
        1,
        1025,
        PART_BYTES,
        PART_BYTES + 1,
        2 * PART_BYTES,
        3 * PART_BYTES - 5,
        5 * PART_BYTES + 1024,
        7 * PART_BYTES,
    ];

    #[test]
    fn every_part_is_proved_against_the_hash_of_the_whole() {
        for len in LENGTHS {
            let bytes = contribution(len);
            let root = Digest(*blake3::hash(&bytes).as_bytes());
            let mut end = 0;
            for part in 0..count(len) {
                let range = range(len, part).expect("a part");
                assert_eq!(range.start, end, "parts follow each other");
                end = range.end;
                let proof = prove(&bytes, part);
                assert_eq!(PartProof::decode(&proof.encode()), Some(proof.clone()));
                assert!(is_part(root, len, part, &bytes[range], &proof), "part {part} of {len} bytes");
            }
            assert_eq!(end, len, "and cover everything");
            assert_eq!(range(len, count(len)), None);
        }
    }

    #[test]
    fn nothing_else_is_a_part() {
        let len = 5 * PART_BYTES + 1024;
        let bytes = contribution(len);
        let root = Digest(*blake3::hash(&bytes).as_bytes());
        let part = bytes[range(len, 2).expect("a part")].to_vec();
        let proof = prove(&bytes, 2);
        assert!(is_part(root, len, 2, &part, &proof));
        let mut flipped = part.clone();
        flipped[77] ^= 1;
        assert!(!is_part(root, len, 2, &flipped, &proof), "other bytes");
        assert!(!is_part(root, len, 2, &part[1..], &proof), "fewer bytes");
        assert!(!is_part(root, len, 3, &part, &proof), "another place");
        assert!(!is_part(root, len, 99, &part, &proof), "no place");
        assert!(!is_part(Digest([1; 32]), len, 2, &part, &proof), "another contribution");
        let last = &bytes[range(len, 5).expect("a part")];
        assert!(!is_part(root, len + 1, 5, last, &prove(&bytes, 5)), "another length");
        assert!(!is_part(root, len, 2, &part, &prove(&bytes, 3)), "another proof");
        assert!(!is_part(root, len, 2, &part, &PartProof(Vec::new())), "no proof");
        assert!(!is_part(root, usize::MAX, usize::MAX, &part, &proof), "no overflow");
        assert_eq!(PartProof::decode(&[0; 33]), None);
        assert_eq!(PartProof::decode(&[0; 32 * 45]), None, "deeper than any contribution");
    }
}
