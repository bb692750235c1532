//! Progress of a node's Sessions: floors of the cohort, and those who leave or join it.

use super::super::Changed;
use super::{Sessions, cursors, key};
use crate::{ClientId, Cursor, Epoch, Laggard, PartitionId, Position, StreamId};

impl Sessions {
    /// Takes a report of `stream`. Entries for connections that are not the newest, or of another node, say nothing.
    pub(in super::super) fn progress(
        &mut self,
        stream: StreamId,
        floors: &[(PartitionId, Position)],
        laggards: &[Laggard],
        joined: &[(ClientId, Epoch)],
        changed: &mut Changed,
    ) {
        // Those who leave were members up to the floors as they were.
        for laggard in laggards {
            self.lag(stream, laggard, changed);
        }
        self.cohorts.raise(stream, floors, changed);
        for (client, epoch) in joined {
            let Some(number) = self.held_by(stream, client, *epoch) else {
                continue;
            };
            if let Some(attachment) = &mut self.table.at_mut(number).attachment {
                attachment.is_joined = true;
                changed.insert(key(&client.0));
            }
        }
    }

    fn lag(&mut self, stream: StreamId, laggard: &Laggard, changed: &mut Changed) {
        let Laggard {
            client,
            epoch,
            progress,
        } = laggard;
        let Some(number) = self.held_by(stream, client, *epoch) else {
            return;
        };
        changed.insert(key(&client.0));
        let mut all: Vec<Cursor> = self.cursors(self.table.at(number));
        cursors::merge(&mut all, progress);
        self.entries_cut += cursors::cut(&mut all);
        let session = self.table.at_mut(number);
        session.cursors = all.into();
        if let Some(attachment) = &mut session.attachment {
            attachment.is_joined = false;
        }
    }

    fn held_by(&self, stream: StreamId, client: &ClientId, epoch: Epoch) -> Option<u32> {
        let number = self.acting(client, epoch).ok()?;
        let (_, holder) = self.table.at(number).attached()?;
        (holder == stream).then_some(number)
    }
}
