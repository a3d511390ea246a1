//! A network between two parts that can be cut so that nobody is told.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A TCP proxy in front of one address. Dropping it closes its port; connections live on until either end closes them.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// Of the connections since the last cut: whether they are lost.
    lost: Arc<Mutex<watch::Sender<bool>>>,
    answers: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a port of loopback and carries on to `target`, like `127.0.0.1:5432`.
    pub async fn start(target: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let lost = Arc::new(Mutex::new(watch::Sender::new(false)));
        let answers = Arc::new(watch::Sender::new(true));
        let (current, answering, target) = (Arc::clone(&lost), answers.subscribe(), target.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let lost = current.lock().unwrap_or_else(PoisonError::into_inner).subscribe();
                let (target, mut answering) = (target.clone(), answering.clone());
                tokio::spawn(async move {
                    let answers = answering.wait_for(|answers| *answers).await.is_ok();
                    if answers {
                        carry(client, &target, lost).await;
                    }
                });
            }
        });
        Ok(Self { address, lost, answers, task })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loses all connections: the server sees them closed, the clients hear nothing more, and are not told. New ones are
    /// answered, or taken and answered by nobody until [`Proxy::mend`].
    pub fn cut(&self, answers: bool) {
        self.answers.send_replace(answers);
        let mut current = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, watch::Sender::new(false)).send_replace(true);
    }

    /// Connections made since the cut are answered.
    pub fn mend(&self) {
        self.answers.send_replace(true);
    }
}

async fn carry(mut client: TcpStream, target: &str, mut lost: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let moved = tokio::select! {
            () = async { drop(lost.wait_for(|lost| *lost).await) } => break,
            read = client.read(&mut up) => match read {
                Ok(bytes @ 1..) => server.write_all(&up[..bytes]).await,
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(bytes @ 1..) => client.write_all(&down[..bytes]).await,
                _ => return,
            },
        };
        if moved.is_err() {
            return;
        }
    }
    drop(server);
    // Held open until the client gives it up.
    while matches!(client.read(&mut up).await, Ok(1..)) {}
}
