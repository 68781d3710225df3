// warp.cpp: collectives of a warp. Several groups of lanes of one warp may be in different collectives at once, as
// independent thread scheduling allows since Volta; a group is told by its mask.
#include "block.h"

namespace emu {

// Runs the collective and lets everybody but `keep_waiting` go on.
static void complete(Block& b, u32 warp, Gathering& g, u32 already_running) {
    g.collective.mask = g.arrived;
    g.all(g.collective);
    Warp& w = b.warp[warp];
    u32 lanes = g.arrived & ~already_running & w.alive;
    g.arrived = 0;
    w.gatherings--;
    make_ready(b, warp, lanes);
}

void warp_collective(u32 mask, CollectiveFn all, void* operand, const char* what) {
    Block& b = block();
    Thread& me = *current_thread;
    Warp& w = b.warp[me.warp];
    u32 bit = 1u << me.lane;
    if (!(mask & bit)) fail("%s: the calling lane %u is not in its own mask %08x", what, me.lane, mask);
    Gathering* g = &w.gathering[0];
    if (w.gatherings && !(g->arrived && g->collective.mask == mask)) {
        Gathering* unused = nullptr;
        g = nullptr;
        for (Gathering& each : w.gathering) {
            if (each.arrived && each.collective.mask == mask) {
                g = &each;
                break;
            }
            if (!each.arrived && !unused) unused = &each;
        }
        if (!g) g = unused;
        if (!g) fail("%s: more than %u groups of one warp are in collectives at once", what, (u32)GROUPS_PER_WARP);
    }
    if (!g->arrived) {
        g->all = all;
        g->what = what;
        g->collective.mask = mask;
        w.gatherings++;
    } else if (g->all != all || g->what != what) {
        fail("lanes of one warp are in different collectives: %s and %s", g->what, what);
    }
    g->collective.operand[me.lane] = operand;
    g->arrived |= bit;
    if (g->arrived == (mask & w.alive)) {
        complete(b, me.warp, *g, bit);
        maybe_yield();
    } else {
        park(what);
    }
}

// Those who wait for lanes that have left do not wait for ever: a mask may name lanes that have exited.
void leave_collectives(Block& b, Thread& t) {
    Warp& w = b.warp[t.warp];
    for (Gathering& g : w.gathering)
        if (g.arrived && g.arrived == (g.collective.mask & w.alive)) complete(b, t.warp, g, 0);
}

namespace {
struct VoteOperand {
    u32 yes, ballot;
};
void vote_all(Collective& c) {
    u32 ballot = 0;
    for (u32 m = c.mask; m; m &= m - 1) {
        u32 lane = (u32)__builtin_ctz(m);
        ballot |= static_cast<VoteOperand*>(c.operand[lane])->yes << lane;
    }
    for (u32 m = c.mask; m; m &= m - 1) static_cast<VoteOperand*>(c.operand[__builtin_ctz(m)])->ballot = ballot;
}
}  // namespace

u32 vote(u32 mask, bool yes) {
    VoteOperand operand{yes, 0};
    warp_collective(mask, vote_all, &operand, "a vote");
    return operand.ballot;
}

}  // namespace emu
