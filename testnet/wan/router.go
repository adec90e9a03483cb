package wan

import (
	"container/heap"
	"net/netip"
	"time"
)

// readLoop takes what the kernel sends from the site, until the device closes.
func (s *Site) readLoop() {
	buf := make([]byte, 64<<10)
	for {
		size, err := s.tun.Read(buf)
		if err != nil {
			return
		}
		s.send(time.Now(), append([]byte(nil), buf[:size]...))
	}
}

// destination is the address that an IP packet is for.
func destination(ip []byte) (netip.Addr, bool) {
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(ip[16:20])), true
	case len(ip) >= 40 && ip[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(ip[24:40])), true
	}
	return netip.Addr{}, false
}

// send puts a packet on its way through the line of its site and the network.
func (s *Site) send(now time.Time, data []byte) {
	n := s.net
	addr, ok := destination(data)
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.byAddr[addr]
	if !ok || to == nil {
		s.unroutable++ // multicast, for example
		return
	}
	lane := n.lane(s, to)
	at, ok := s.up.pass(now, len(data), n.patience())
	if ok {
		at, ok = lane.arrival(at, n.rng)
	}
	if !ok || to.waiting.Len() >= maxWaiting {
		lane.traffic.Dropped++
		return
	}
	to.waiting.add(packet{at: at, data: data, lane: lane})
	if to.waiting.list[0].seq == to.waiting.seq {
		to.wakeUp()
	}
}

func (s *Site) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// deliverLoop hands packets to the kernel when they are due, until the network
// is closed.
func (s *Site) deliverLoop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		ready, next, closed := s.due(time.Now())
		if closed {
			return
		}
		for _, p := range ready {
			s.deliver(p)
		}
		if len(ready) > 0 {
			continue
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-s.wake:
		}
	}
}

// due takes the packets that have arrived, and says how long it is to the next.
// A packet passes the line to the site in the order in which packets come there.
func (s *Site) due(now time.Time) (ready []packet, next time.Duration, closed bool) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	for s.waiting.Len() > 0 {
		if first := s.waiting.list[0].at; first.After(now) {
			return ready, first.Sub(now), s.net.closed
		}
		p := heap.Pop(&s.waiting).(packet)
		if p.down || s.down.rate == 0 {
			ready = append(ready, p)
			continue
		}
		at, ok := s.down.pass(p.at, len(p.data), s.net.patience())
		if !ok {
			p.lane.traffic.Dropped++
			continue
		}
		p.at, p.down = at, true
		s.waiting.add(p)
	}
	return ready, time.Hour, s.net.closed
}

func (s *Site) deliver(p packet) {
	_, err := s.tun.Write(p.data)
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if err != nil {
		p.lane.traffic.Dropped++ // the kernel has no room, or the site is gone
		return
	}
	p.lane.traffic.Packets++
	p.lane.traffic.Bytes += int64(len(p.data))
}
