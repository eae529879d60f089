//! Blocks of host memory that a device copies out of, used again once it has.

use std::collections::VecDeque;

use candle_core::Result;

/// How words get from a block of host memory onto a device: in the order of the calls, and perhaps later.
pub(super) trait Upload {
    /// Host memory.
    type Block;
    /// What arrives.
    type Copied;
    /// Says when the block has been read.
    type Read: Read;

    /// A block with room for this many words.
    fn block(&self, words: usize) -> Result<Self::Block>;
    /// Words that a block has room for.
    fn room(block: &Self::Block) -> usize;
    /// Writes `words` into a block that no copy reads, and starts the copy.
    fn copy(&self, block: &mut Self::Block, words: &[u32]) -> Result<(Self::Copied, Self::Read)>;
}

/// A copy that may still read its block.
pub(super) trait Read {
    fn is_over(&self) -> Result<bool>;
    fn wait(&self) -> Result<()>;
}

/// Blocks at most: the host is two batches ahead of the device at most, and a third is being staged.
const BLOCKS: usize = 3;

/// The blocks of one device.
pub(super) struct Staging<U: Upload> {
    upload: U,
    /// In the order of their copies.
    used: VecDeque<(U::Block, U::Read)>,
}

impl<U: Upload> Staging<U> {
    pub(super) fn new(upload: U) -> Self {
        Self { upload, used: VecDeque::new() }
    }

    /// How it copies.
    #[cfg(feature = "cuda")]
    pub(super) fn way(&self) -> &U {
        &self.upload
    }

    /// Stages `words` and starts their copy.
    pub(super) fn upload(&mut self, words: &[u32]) -> Result<U::Copied> {
        let free = self.free()?.filter(|block| U::room(block) >= words.len());
        let mut block = match free {
            Some(block) => block,
            None => self.upload.block(words.len())?,
        };
        let (copied, read) = self.upload.copy(&mut block, words)?;
        self.used.push_back((block, read));
        Ok(copied)
    }

    /// The block whose copy is over longest ago; waits for one where there are enough.
    fn free(&mut self) -> Result<Option<U::Block>> {
        let Some((_, read)) = self.used.front() else { return Ok(None) };
        if self.used.len() >= BLOCKS {
            read.wait()?;
        } else if !read.is_over()? {
            return Ok(None);
        }
        Ok(self.used.pop_front().map(|(block, _)| block))
    }
}

impl<U: Upload> Drop for Staging<U> {
    /// Memory is not freed under a copy. Where waiting fails, so did the device.
    fn drop(&mut self) {
        for (_, read) in &self.used {
            let _broken = read.wait();
        }
    }
}

#[cfg(test)]
pub(super) mod late {
    //! A device that copies late, on a thread of its own.

    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use super::*;

    type Block = Arc<Mutex<Vec<u32>>>;

    pub(in crate::tower::tensor) struct Late(Sender<Copy>);

    struct Copy {
        block: Block,
        count: usize,
        arrived: Sender<Vec<u32>>,
        read: Sender<()>,
    }

    pub(in crate::tower::tensor) struct LateRead(Mutex<Receiver<()>>);

    impl Late {
        pub(in crate::tower::tensor) fn new(delay: Duration) -> Self {
            let (sender, copies) = channel::<Copy>();
            std::thread::spawn(move || {
                for copy in copies {
                    std::thread::sleep(delay);
                    let block = copy.block.lock().unwrap_or_else(PoisonError::into_inner);
                    let _gone = copy.arrived.send(block[..copy.count].to_vec());
                    drop(block);
                    let _gone = copy.read.send(());
                }
            });
            Self(sender)
        }
    }

    impl Upload for Late {
        type Block = Block;
        type Copied = Receiver<Vec<u32>>;
        type Read = LateRead;

        fn block(&self, words: usize) -> Result<Block> {
            Ok(Arc::new(Mutex::new(vec![0; words.next_power_of_two()])))
        }

        fn room(block: &Block) -> usize {
            block.lock().unwrap().len()
        }

        fn copy(&self, block: &mut Block, words: &[u32]) -> Result<(Self::Copied, LateRead)> {
            block.lock().unwrap()[..words.len()].copy_from_slice(words);
            let ((arrived, copied), (read, over)) = (channel(), channel());
            let (block, count) = (Arc::clone(block), words.len());
            self.0.send(Copy { block, count, arrived, read }).unwrap();
            Ok((copied, LateRead(Mutex::new(over))))
        }
    }

    impl Read for LateRead {
        fn is_over(&self) -> Result<bool> {
            Ok(self.0.lock().unwrap().try_recv().is_ok())
        }

        fn wait(&self) -> Result<()> {
            // Where it was received before, the sender is gone.
            let _over = self.0.lock().unwrap().recv();
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::late::Late;
    use super::*;

    #[test]
    fn a_block_is_not_written_under_a_late_copy() {
        let mut staging = Staging::new(Late::new(Duration::from_millis(3)));
        let batches: Vec<Vec<u32>> = (0..12).map(|at| vec![at; 7 + 5 * at as usize % 11]).collect();
        let copied: Vec<_> = batches.iter().map(|words| staging.upload(words).unwrap()).collect();
        for (copied, words) in copied.into_iter().zip(&batches) {
            assert_eq!(copied.recv().unwrap(), *words);
        }
        assert!(staging.used.len() <= BLOCKS);
    }
}
