//! A TCP forwarder to a broker whose connections can be cut.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

pub struct Line {
    port: u16,
    cuts: broadcast::Sender<()>,
    task: JoinHandle<()>,
}

impl Line {
    pub async fn to(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = broadcast::Sender::new(1);
        let each = cuts.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = each.subscribe();
                tokio::spawn(async move {
                    let mut broker = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
                    client.set_nodelay(true).unwrap();
                    broker.set_nodelay(true).unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut broker) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self { port, cuts, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every open connection.
    pub fn cut(&self) {
        let _ = self.cuts.send(());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}
