//! A disk in memory: completes requests in order, counts, and can be told to fail.

use crate::device::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::vec::Vec;

/// What a disk of so many bytes is like.
pub(crate) fn geometry(len_bytes: u64) -> DeviceGeometry {
    DeviceGeometry {
        len_bytes,
        logical_sector_len_bytes: 512,
        physical_sector_len_bytes: 512,
        max_transfer_len_bytes: 1 << 20,
        max_segments: 16,
        queue_depth: 4,
        read_only: false,
        volatile_cache: true,
        discard: true,
    }
}

pub(crate) struct Disk<'m> {
    inner: Mutex<Inner<'m>>,
}

struct Inner<'m> {
    bytes: Vec<u8>,
    done: VecDeque<Completion<'m>>,
    /// Address and length of each write, and `None` for each flush.
    log: Vec<Option<(u64, u64)>>,
    /// Address of each read.
    reads: Vec<u64>,
    discards: Vec<(u64, u64)>,
    fail: Option<DeviceError>,
}

impl<'m> Disk<'m> {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                bytes,
                done: VecDeque::new(),
                log: Vec::new(),
                reads: Vec::new(),
                discards: Vec::new(),
                fail: None,
            }),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.inner.lock().unwrap().bytes.clone()
    }

    pub(crate) fn edit(&self, edit: impl FnOnce(&mut [u8])) {
        edit(&mut self.inner.lock().unwrap().bytes);
    }

    pub(crate) fn take_log(&self) -> Vec<Option<(u64, u64)>> {
        core::mem::take(&mut self.inner.lock().unwrap().log)
    }

    pub(crate) fn take_reads(&self) -> Vec<u64> {
        core::mem::take(&mut self.inner.lock().unwrap().reads)
    }

    pub(crate) fn take_discards(&self) -> Vec<(u64, u64)> {
        core::mem::take(&mut self.inner.lock().unwrap().discards)
    }

    pub(crate) fn grow(&self, len_bytes: usize) {
        self.inner.lock().unwrap().bytes.resize(len_bytes, 0);
    }

    pub(crate) fn fail(&self, error: Option<DeviceError>) {
        self.inner.lock().unwrap().fail = error;
    }
}

impl<'m> Device<'m> for Disk<'m> {
    fn geometry(&self) -> DeviceGeometry {
        geometry(self.inner.lock().unwrap().bytes.len() as u64)
    }

    fn submit(&self, mut request: Request<'m>) -> Result<(), Request<'m>> {
        let mut inner = self.inner.lock().unwrap();
        if inner.done.len() >= 4 {
            return Err(request);
        }
        let inner = &mut *inner;
        let mut at = request.addr() as usize;
        let result = match inner.fail {
            Some(error) => Err(error),
            None => Ok(()),
        };
        if request.kind() == RequestKind::Read {
            inner.reads.push(request.addr());
        }
        if request.kind() == RequestKind::Discard {
            let (first, end) = (request.addr() as usize, (request.addr() + request.len_bytes()) as usize);
            inner.bytes[first..end].fill(0xdd);
            inner.discards.push((request.addr(), request.len_bytes()));
        } else if result.is_ok() {
            if let Some(buffers) = request.buffers() {
                for buffer in buffers {
                    inner.bytes[at..at + buffer.len()].copy_from_slice(buffer);
                    at += buffer.len();
                }
                inner.log.push(Some((request.addr(), request.len_bytes())));
            } else if let Some(buffers) = request.buffers_mut() {
                for buffer in buffers {
                    buffer.copy_from_slice(&inner.bytes[at..at + buffer.len()]);
                    at += buffer.len();
                }
            }
        }
        inner.done.push_back(Completion::Transfer(request, result));
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        let mut inner = self.inner.lock().unwrap();
        let result = inner.fail.map_or(Ok(()), Err);
        inner.log.push(None);
        inner.done.push_back(Completion::Flush(tag, result));
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'m>> {
        self.inner.lock().unwrap().done.pop_front()
    }
}
