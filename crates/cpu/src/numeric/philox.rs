//! The counter-based generator Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! 2011).

use kiln_backend::RandomState;

use crate::engine::simd::multiversion;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Blocks computed side by side, so that the loop vectorizes.
const LANES: usize = 16;

/// `LANES` blocks: the words of their counters as input, the random words as output.
type Lanes = [[u32; LANES]; 4];

#[inline(always)]
fn rounds(mut counter: Lanes, mut key: [u32; 2]) -> Lanes {
    for _ in 0..ROUNDS {
        let mut next = [[0; LANES]; 4];
        for lane in 0..LANES {
            let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0][lane]);
            let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2][lane]);
            next[0][lane] = (b >> 32) as u32 ^ counter[1][lane] ^ key[0];
            next[1][lane] = b as u32;
            next[2][lane] = (a >> 32) as u32 ^ counter[3][lane] ^ key[1];
            next[3][lane] = a as u32;
        }
        counter = next;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

multiversion! {
    /// The words of consecutive counter blocks from `state.offset + first` on, four per block.
    pub(crate) fn words(state: RandomState, first: u64, out: &mut [[u32; 4]]) {
        let key = [state.seed as u32, (state.seed >> 32) as u32];
        let mut block = state.offset.wrapping_add(first);
        for out in out.chunks_mut(LANES) {
            let mut counter = [[0; LANES]; 4];
            counter[0] = std::array::from_fn(|lane| block.wrapping_add(lane as u64) as u32);
            counter[1] = std::array::from_fn(|lane| (block.wrapping_add(lane as u64) >> 32) as u32);
            let result = rounds(counter, key);
            for (lane, out) in out.iter_mut().enumerate() {
                *out = [result[0][lane], result[1][lane], result[2][lane], result[3][lane]];
            }
            block = block.wrapping_add(LANES as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The test vectors of the authors' Random123 library.
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            let lanes = rounds(counter.map(|word| [word; LANES]), key);
            assert_eq!(lanes.map(|word| word[LANES - 1]), want);
        }
    }

    #[test]
    fn blocks_are_numbered_from_the_offset() {
        let (seed, start) = (0x0123_4567_89AB_CDEF, (1u64 << 32) - 20);
        let mut all = [[0; 4]; 50];
        words(RandomState { seed, offset: start }, 0, &mut all);
        for i in 0..50 {
            let mut one = [[0; 4]];
            words(RandomState { seed, offset: start - 5 }, i + 5, &mut one);
            assert_eq!(one[0], all[i as usize]);
        }
        let mut zero = [[0; 4]];
        words(RandomState { seed: 0, offset: 0 }, 0, &mut zero);
        assert_eq!(zero[0], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }
}
