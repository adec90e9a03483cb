package mesh

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/namespace"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/provider"
	"github.com/libp2p/go-libp2p-kad-dht/provider/keystore"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	mh "github.com/multiformats/go-multihash"

	"github.com/meshproxy/meshproxy/verify"
)

// How the DHT works. Up to bucketSize members keep every record, so a lookup in
// a small mesh is local.
const (
	bucketSize   = 20
	lookupAlpha  = 10
	lookupBeta   = 3
	provideFor   = 6 * time.Hour // how long others believe an announcement
	reprovideAt  = provideFor / 3
	reprovideLag = 10 * time.Minute
	checkOnline  = 5 * time.Second
	offlineAfter = 24 * time.Hour
)

func (m *Mesh) startDHT(s *session) error {
	store := namespace.Wrap(m.cfg.Datastore, ds.NewKey("/mesh"+s.prefix))
	var sender *sender
	d, err := dht.New(m.members,
		dht.ProtocolPrefix(protocol.ID(s.prefix)),
		dht.Mode(dht.ModeServer),
		dht.BucketSize(bucketSize), dht.Concurrency(lookupAlpha), dht.Resiliency(lookupBeta),
		dht.Datastore(namespace.Wrap(store, ds.NewKey("dht"))),
		dht.ProviderManagerOpts(records.ProvideValidity(provideFor)),
		dht.DisableValues(), // records go to home peers; the DHT routes content
		dht.BootstrapPeers(),
		dht.DisableAutoRefresh(), dht.LookupCheckConcurrency(0), // see route
		dht.RoutingTableFilter(func(_ any, p peer.ID) bool { return m.IsMember(p) }),
		dht.QueryFilter(func(_ any, ai peer.AddrInfo) bool { return m.IsMember(ai.ID) }),
		dht.AddressFilter(func(a []ma.Multiaddr) []ma.Multiaddr { return advertised(a, false) }),
		dht.WithCustomMessageSender(func(h host.Host, ids []protocol.ID) pb.MessageSenderWithDisconnect {
			sender = newSender(h, ids)
			return sender
		}),
	)
	if err != nil {
		return fmt.Errorf("start the DHT: %w", err)
	}
	s.dht = d
	s.closers = append(s.closers, func() error {
		err := d.Close()
		sender.close()
		m.members.RemoveStreamHandler(protocol.ID(s.prefix + "/kad/1.0.0"))
		return err
	})
	return m.startProvider(s, namespace.Wrap(store, ds.NewKey("provide")))
}

func (m *Mesh) startProvider(s *session, store ds.Batching) error {
	// What this node holds is its own matter: the list moves along to another
	// mesh, where all of it is announced anew.
	keys, err := keystore.NewKeystore(namespace.Wrap(m.cfg.Datastore, ds.NewKey("/mesh/announced")))
	if err != nil {
		return fmt.Errorf("open the list of announced roots: %w", err)
	}
	s.keystore = keys
	s.closers = append(s.closers, keys.Close)
	self := func() []ma.Multiaddr { return advertised(m.host.Addrs(), false) }
	s.provider, err = provider.New(
		provider.WithHost(m.members),
		provider.WithRouter(nearest{m}),
		provider.WithMessageSender(s.dht.MessageSender()),
		provider.WithSelfAddrs(self),
		provider.WithAddLocalRecord(func(ctx context.Context, h mh.Multihash) error {
			return s.dht.ProviderStore().AddProvider(ctx, h, peer.AddrInfo{ID: m.host.ID(), Addrs: self()})
		}),
		provider.WithKeystore(keys),
		provider.WithDatastore(namespace.Wrap(store, ds.NewKey("state"))),
		provider.WithReplicationFactor(bucketSize),
		provider.WithReprovideInterval(reprovideAt),
		provider.WithMaxReprovideDelay(reprovideLag),
		provider.WithConnectivityCheckOnlineInterval(checkOnline),
		provider.WithOfflineDelay(offlineAfter),
		provider.WithSendProviderRecordTimeout(dialTimeout),
	)
	if err != nil {
		return fmt.Errorf("start announcing: %w", err)
	}
	s.closers = append(s.closers, s.provider.Close)
	return nil
}

// Announce tells the mesh that this node holds the releases with these roots,
// now and again from time to time, over restarts, until Withhold.
func (m *Mesh) Announce(ctx context.Context, roots ...verify.Digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.session.Load().provider.StartProviding(false, multihashes(roots)...); err != nil {
		return fmt.Errorf("announce %d roots: %w", len(roots), err)
	}
	m.announced.Add(uint64(len(roots)))
	return nil
}

// Withhold ends Announce. Others forget it when the last announcement has run out.
func (m *Mesh) Withhold(ctx context.Context, roots ...verify.Digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.session.Load().provider.StopProviding(multihashes(roots)...); err != nil {
		return fmt.Errorf("withhold %d roots: %w", len(roots), err)
	}
	return nil
}

func multihashes(roots []verify.Digest) []mh.Multihash {
	hs := make([]mh.Multihash, len(roots))
	for i, r := range roots {
		hs[i] = r.CID().Hash()
	}
	return hs
}

// FindProvidersAsync asks the DHT who holds the content behind c: members other
// than this node, each once, at most count of them. The channel is closed when
// the lookup or ctx ends; do not wait for it, take what you need and end ctx.
func (m *Mesh) FindProvidersAsync(ctx context.Context, c cid.Cid, count int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	m.lookups.Add(1)
	hired := m.hire(func(life context.Context) {
		defer close(out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		var sent []peer.ID
		for ai := range m.session.Load().dht.FindProvidersAsync(ctx, c, 0) {
			if ai.ID == m.host.ID() || !m.IsMember(ai.ID) || slices.Contains(sent, ai.ID) {
				continue
			}
			select {
			case out <- ai:
				m.holders.Add(1)
			case <-ctx.Done():
				return
			}
			if sent = append(sent, ai.ID); count > 0 && len(sent) >= count {
				return
			}
		}
	})
	if !hired {
		close(out)
	}
	return out
}
