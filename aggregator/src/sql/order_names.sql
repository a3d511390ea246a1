-- The events that report orders.
('purchase', 'order_updated', 'refund', 'order_cancelled')
