"""Jobs for Ray clusters that run somewhere: submission, notice of nodes that leave, manifests."""
